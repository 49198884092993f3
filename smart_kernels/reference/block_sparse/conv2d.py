"""Definition of ``block_sparse_conv2d``: the convolution with the weight that the blocks make up. Images are NHWC."""

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.reference.common.conv import gradient
from smart_kernels.reference.common.epilogue import finish
from smart_kernels.reference.common.precision import wide
from smart_kernels.shapes import Conv


def block_sparse_conv2d(
    x: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    geometry: list[int],
    out_channels: int,
    activation: str | None,
    index: Tensor | None = None,
) -> Tensor:
    """Return (B, H', W', N) from (B, H, W, C) and (nnz, tile_n, tile_c); ``index`` only saves time elsewhere."""
    conv = Conv.of(geometry)
    weight = kernel(wide(values), crow_indices, col_indices, (out_channels, x.shape[3]), conv)
    y = F.conv2d(wide(x).movedim(3, 1), weight, None, *conv[1:]).movedim(1, 3)
    return finish(y, bias, residual, activation).to(x.dtype).contiguous()


def block_sparse_conv2d_dx(
    dy: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    bias: Tensor | None,
    geometry: list[int],
    height: int,
    width: int,
    channels: int,
    index: Tensor | None = None,
) -> Tensor:
    """Return (B, H, W, C) from (B, H', W', N) and (nnz, tile_n, tile_c)."""
    conv = Conv.of(geometry)
    weight = kernel(wide(values), crow_indices, col_indices, (dy.shape[3], channels), conv)
    x = weight.new_empty(dy.shape[0], channels, height, width)
    dx = gradient(dy, x, weight, conv, 0).movedim(1, 3)
    return finish(dx, bias, None, None).to(dy.dtype).contiguous()


def block_sparse_conv2d_dvalues(
    dy: Tensor,
    x: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    geometry: list[int],
    tile_n: int,
    tile_c: int,
    index: Tensor | None = None,
) -> Tensor:
    """Return (nnz, tile_n, tile_c) from (B, H', W', N) and (B, H, W, C)."""
    conv = Conv.of(geometry)
    N = dy.shape[3]
    C = x.shape[3]
    x = wide(x).movedim(3, 1)
    dweight = gradient(dy, x, x.new_empty(N, C, *conv.kernel), conv, 1).flatten(2).transpose(1, 2)
    filled = F.pad(dweight, (0, -C % tile_c, 0, 0, 0, -N % tile_n))  # (rows * tile_n, taps, cols * tile_c)
    blocks = filled.unflatten(0, (-1, tile_n)).unflatten(3, (-1, tile_c)).permute(0, 2, 3, 1, 4).flatten(1, 2)
    return blocks[_rows(crow_indices, len(col_indices)), col_indices.long()].to(dy.dtype)


def kernel(values: Tensor, crow_indices: Tensor, col_indices: Tensor, size: tuple[int, int], conv: Conv) -> Tensor:
    """Expand (nnz, tile_n, tile_c) to (N, C, kh, kw) with ``size = (N, C)``; differentiable in ``values``."""
    _, tile_n, tile_c = values.shape
    N, C = size
    rows = len(crow_indices) - 1
    cols = conv.taps * -(-C // tile_c)
    place = _rows(crow_indices, len(values)) * cols + col_indices
    blocks = values.new_zeros(rows * cols, tile_n, tile_c).index_copy(0, place, values)
    full = blocks.view(rows, *conv.kernel, -1, tile_n, tile_c).permute(0, 4, 3, 5, 1, 2)
    return full.flatten(2, 3).flatten(0, 1)[:N, :C]


def _rows(crow_indices: Tensor, nnz: int) -> Tensor:
    rows = torch.arange(len(crow_indices) - 1, device=crow_indices.device)
    return rows.repeat_interleave(crow_indices.diff(), output_size=nnz)
