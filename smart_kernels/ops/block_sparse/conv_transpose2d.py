"""``block_sparse_conv_transpose2d``: transposed convolution whose weight is stored as block compressed sparse rows."""

from torch import Tensor

from smart_kernels.ops.common.conv_inputs import nhwc
from smart_kernels.ops.common.inputs import autocast_all, autocasts, flat, no_autocast
from smart_kernels.shapes import Conv, pair

from .conv_checks import check_conv
from .conv_operators import block_conv_dx
from .linear import block_sparse_linear_dx


def block_sparse_conv_transpose2d(
    x: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    output_padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    out_channels: int,
    index: Tensor | None = None,
) -> Tensor:
    """Return ``conv_transpose2d(x, W) + bias``: the input gradient of the convolution whose weight is W.

    Args:
        x: (B, C, H, W); dtypes as in :func:`block_sparse_conv2d`.
        values: (nnz, tile_c, tile_n) blocks of W (C, taps * N), the weight of ``nn.ConvTranspose2d`` as a matrix.
        crow_indices: (ceil(C / tile_c) + 1,) and
        col_indices: (nnz,) below ``taps * ceil(N / tile_n)``, as in :func:`block_sparse_conv2d`.
        bias: (N,) or None.
        kernel_size, stride, padding, output_padding, dilation: as in ``nn.ConvTranspose2d``.
        out_channels: N.
        index: what ``conv_index`` made of these indices, its channels (C, N); without it each call sorts them anew.

    Returns:
        (B, N, H', W') in channels_last.

    Raises:
        ValueError: a shape, dtype or device does not fit.
    """
    conv = Conv(*map(pair, (kernel_size, stride, padding, dilation)))
    extra = pair(output_padding)
    if autocasts(x):
        x, values, bias = autocast_all(x, values, bias)
    check_conv((x, values, crow_indices, col_indices, bias, None, index), (None, out_channels, conv, True))
    if not all(0 <= e < s for e, s in zip(extra, conv.stride, strict=True)):
        raise ValueError(f"output_padding must be at least 0 and below stride {conv.stride}, got {extra}")
    size = conv.input_size(*x.shape[2:])
    size = size[0] + extra[0], size[1] + extra[1]
    with no_autocast(x):
        if conv.pointwise:
            return _pointwise(nhwc(x), (values, crow_indices, col_indices, out_channels, index), bias, conv, size)
        args = nhwc(x), values, crow_indices, col_indices, bias, conv.numbers, *size
        return block_conv_dx(*args, out_channels, index).movedim(3, 1)


def _pointwise(x: Tensor, weight: tuple, bias: Tensor | None, conv: Conv, size: tuple[int, int]) -> Tensor:
    """Multiply (B, H, W, C) by W; between the pixels of y that a stride leaves out there is the bias alone."""
    y = block_sparse_linear_dx(flat(x), *weight).view(*x.shape[:3], -1)
    if tuple(y.shape[1:3]) != size:
        spread = y.new_zeros(len(y), *size, y.shape[3])
        (height, width), (sh, sw) = y.shape[1:3], conv.stride
        spread[:, : height * sh : sh, : width * sw : sw] = y
        y = spread
    return (y if bias is None else y + bias).movedim(3, 1)
