"""``block_sparse_conv_transpose2d``: transposed convolution whose weight is stored as block compressed sparse rows."""

from torch import Tensor

from smart_kernels.ops.common.conv_inputs import nhwc
from smart_kernels.ops.common.inputs import autocast_all, autocasts, no_autocast
from smart_kernels.shapes import Conv, pair

from .conv_checks import check_conv
from .conv_operators import block_conv_dx


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
    with no_autocast(x):
        args = nhwc(x), values, crow_indices, col_indices, bias, conv.numbers, size[0] + extra[0], size[1] + extra[1]
        return block_conv_dx(*args, out_channels, index).movedim(3, 1)
