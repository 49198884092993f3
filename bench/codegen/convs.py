"""Public calls of convolutions for the census; see ``calls``."""

import torch

from smart_kernels.ops import block_sparse_conv1d, block_sparse_conv2d, masked_conv2d, semi_structured_conv2d

from .calls import DTYPES, indices


def conv(tile: tuple[int, int], padding: int = 1, stride: int = 1, channels: int = 256, dtype: str = "bf16") -> None:
    """Call block_sparse_conv2d to train, and to infer with everything that may follow it."""
    rows = channels // tile[0]
    cols = 9 * channels // tile[1]
    nnz = rows * cols // 4
    crow, col = indices(rows, cols, nnz)
    values = torch.empty(nnz, *tile, dtype=DTYPES[dtype], requires_grad=True)
    x = torch.empty(32, channels, 28, 28, dtype=DTYPES[dtype], requires_grad=True)
    geometry = {"kernel_size": 3, "stride": stride, "padding": padding, "out_channels": channels}
    y = block_sparse_conv2d(x, values, crow, col, **geometry)
    y.backward(torch.empty_like(y))
    bias = values.new_empty(channels)
    with torch.no_grad():
        block_sparse_conv2d(x, values, crow, col, bias, **geometry, activation="relu", residual=y)


def conv1d(tile: tuple[int, int], channels: int = 64) -> None:
    """Convolve images of height 1, a size that is compiled in."""
    rows = channels // tile[0]
    cols = 3 * channels // tile[1]
    crow = (torch.arange(rows + 1) * cols).int()
    col = torch.arange(rows * cols).remainder(cols).int()
    x = torch.empty(32, channels, 512, dtype=torch.bfloat16, requires_grad=True)
    values = torch.empty(rows * cols, *tile, dtype=torch.bfloat16, requires_grad=True)
    y = block_sparse_conv1d(x, values, crow, col, kernel_size=3, padding=1, out_channels=channels)
    y.backward(torch.empty_like(y))


def masked_conv(tile: tuple[int, int], channels: int = 256, dtype: str = "bf16") -> None:
    """Call masked_conv2d."""
    x = torch.empty(32, channels, 28, 28, dtype=DTYPES[dtype], requires_grad=True)
    weight = torch.empty(channels, channels, 3, 3, dtype=DTYPES[dtype], requires_grad=True)
    mask = torch.zeros(channels // tile[0], 9 * channels // tile[1], requires_grad=True)
    y = masked_conv2d(x, weight, mask, tile=tile, padding=1)
    y.backward(torch.empty_like(y))


def semi_conv(
    group: tuple[int, int] = (2, 4), channels: int = 256, padding: int = 1, stride: int = 1, dtype: str = "bf16"
) -> None:
    """Call semi_structured_conv2d, plain and with everything that may follow it."""
    n, m = group
    stored = 9 * channels // m * n
    x = torch.empty(32, channels, 28, 28, dtype=DTYPES[dtype])
    values = torch.empty(256, stored, dtype=DTYPES[dtype])
    indices = torch.zeros(256, stored * (m - 1).bit_length() // 8, dtype=torch.uint8)
    settings = {"kernel_size": 3, "padding": padding, "stride": stride, "n": n, "m": m}
    y = semi_structured_conv2d(x, values, indices, **settings)
    semi_structured_conv2d(x, values, indices, values.new_empty(256), **settings, activation="relu", residual=y)
