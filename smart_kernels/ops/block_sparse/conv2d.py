"""``block_sparse_conv2d``: convolution whose weight is stored as block compressed sparse rows."""

from torch import Tensor

from smart_kernels.ops.common.conv_inputs import nhwc, pixels
from smart_kernels.ops.common.inputs import autocast_all, autocasts, needs_gradient, no_autocast
from smart_kernels.reference.common.epilogue import finish
from smart_kernels.shapes import Conv, pair

from .conv_checks import check_conv
from .conv_operators import block_conv
from .linear import block_sparse_linear

Size = int | tuple[int, int]


def block_sparse_conv2d(
    x: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    out_channels: int,
    activation: str | None = None,
    residual: Tensor | None = None,
    index: Tensor | None = None,
) -> Tensor:
    """Return ``activation(conv2d(x, W) + bias + residual)``, W (N, taps * C) in block compressed sparse rows.

    Block column ``tap * ceil(C / tile_c) + i`` is channel block ``i`` of kernel position ``tap = row * kw + column``.
    Costs follow the number of stored blocks. A pointwise convolution is ``block_sparse_linear`` of its pixels, in
    channels_last and without a stride a view. Differentiable in ``x``, ``values``, ``bias`` and ``residual``;
    activation and residual are fused where no gradient is needed. The indices are trusted: see ``check_indices``.

    Args:
        x: (B, C, H, W), fastest in channels_last; fp32, fp16, bf16 or fp64. Under autocast all are cast.
        values: (nnz, tile_n, tile_c) stored blocks, dtype of ``x``, zeros beyond the edges of W.
        crow_indices: (ceil(N / tile_n) + 1,) int32 or int64, row ``i`` owns the blocks ``crow[i] .. crow[i + 1] - 1``.
        col_indices: (nnz,) int32 or int64, block column of each block, below ``taps * ceil(C / tile_c)``.
        bias: (N,) dtype of ``x``, or None.
        kernel_size, stride, padding, dilation: as in ``nn.Conv2d``; groups are not supported.
        out_channels: N.
        activation: None, "relu", "relu6", "gelu", "gelu_tanh" or "silu".
        residual: shape of the result, or None.
        index: what ``conv_index`` made of these indices; without it each backward sorts them anew.

    Returns:
        (B, N, H', W') in channels_last, dtype of ``x``, accumulated in fp32 (fp64 for fp64).

    Raises:
        ValueError: a shape, dtype, device or the activation does not fit.
    """
    conv = Conv(*map(pair, (kernel_size, stride, padding, dilation)))
    if autocasts(x):
        x, values, bias, residual = autocast_all(x, values, bias, residual)
    tensors = x, values, crow_indices, col_indices, bias, residual, index
    check_conv(tensors, (activation, out_channels, conv, False))
    with no_autocast(x):
        if conv.pointwise:
            rest = None if residual is None else residual.movedim(1, 3)
            ending = {"out_features": out_channels, "activation": activation, "residual": rest, "index": index}
            return block_sparse_linear(pixels(x, conv.stride), *tensors[1:5], **ending).movedim(3, 1)
        args = nhwc(x), values, crow_indices, col_indices, bias
        return _conv2d(args, residual, conv, (out_channels, activation), index)


def _conv2d(
    args: tuple, residual: Tensor | None, conv: Conv, ending: tuple[int, str | None], index: Tensor | None
) -> Tensor:
    """Fuse activation and residual where torch needs not differentiate them."""
    x, values, _, _, bias = args
    if needs_gradient(x, values, bias, residual):
        out_channels, activation = ending
        y = block_conv(*args, None, conv.numbers, out_channels, None, index).movedim(3, 1)
        return y if residual is None and activation is None else finish(y, None, residual, activation)
    rest = None if residual is None else nhwc(residual)
    return block_conv(*args, rest, conv.numbers, *ending, index).movedim(3, 1)
