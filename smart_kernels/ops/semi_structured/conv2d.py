"""``semi_structured_conv2d``: convolution whose weight keeps n of every m input channels, at each tap."""

import torch
from torch import Tensor

from smart_kernels.ops.common.arguments import precision
from smart_kernels.ops.common.conv_inputs import nhwc, pixels
from smart_kernels.ops.common.inputs import autocast_all, autocasts, contiguous, needs_gradient, no_autocast
from smart_kernels.ops.common.launch import all_given
from smart_kernels.ops.common.library import always, define, differentiable
from smart_kernels.reference.common.epilogue import finish
from smart_kernels.reference.semi_structured import conv2d as reference
from smart_kernels.shapes import Conv, pair

from .checks import check_conv
from .conv_matmul import spread_conv
from .linear import semi_structured_linear

Size = int | tuple[int, int]


def semi_structured_conv2d(
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    n: int = 2,
    m: int = 4,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Return ``activation(conv2d(x, W) + bias + residual)``, W (N, taps * C) with n of every m channels of a tap.

    Saves memory, not arithmetic. A pointwise convolution is ``semi_structured_linear`` of its pixels. Differentiable in
    ``x``, ``values``, ``bias`` and ``residual``. The gradients of ``x`` and ``values`` of others are those of torch's
    dense convolution, in its time and, on a GPU, with its TF32; activation and residual are fused where no gradient is
    needed. The indices are trusted, as by ``semi_structured_linear``.

    Args:
        x: (B, C, H, W), fastest in channels_last; fp32, fp16, bf16 or fp64. Under autocast all are cast.
        values: (N, taps * ceil(C / m) * n) dtype of ``x``, tap ``row * kw + column`` after tap; 0 where a group reaches
            beyond C.
        indices: (N, ceil(values.shape[1] * bits / 8)) uint8, bits = ceil(log2 m), the place of each value in its group,
            rising, lowest bits first.
        bias: (N,) dtype of ``x``, or None.
        kernel_size, stride, padding, dilation: as in ``nn.Conv2d``; groups are not supported.
        n, m: what is kept of every m weights; m = 2, 4 or 8.
        activation: None, "relu", "relu6", "gelu", "gelu_tanh" or "silu".
        residual: shape of the result, or None.

    Returns:
        (B, N, H', W') in channels_last, dtype of ``x``, accumulated in fp32 (fp64 for fp64).

    Raises:
        ValueError: a shape, dtype, device or the activation does not fit.
    """
    conv = Conv(*map(pair, (kernel_size, stride, padding, dilation)))
    if autocasts(x):
        x, values, bias, residual = autocast_all(x, values, bias, residual)
    check_conv((x, values, indices, bias, residual), (n, m, activation, conv))
    if conv.pointwise:
        rest = None if residual is None else residual.movedim(1, 3)
        with no_autocast(x):
            options = {"n": n, "m": m, "activation": activation, "residual": rest}
            return semi_structured_linear(pixels(x, conv.stride), values, indices, bias, **options).movedim(3, 1)
    learns = needs_gradient(x, values, bias, residual)
    after = (None, None) if learns else (None if residual is None else nhwc(residual), activation)
    with no_autocast(x):
        y = _conv(nhwc(x), values, indices, bias, after[0], conv.numbers, n, m, after[1]).movedim(3, 1)
        return finish(y, None, residual, activation) if learns else y


def _fake(x, values, indices, bias, residual, geometry, n, m, activation):
    return x.new_empty(x.shape[0], *Conv.of(geometry).output_size(*x.shape[1:3]), values.shape[0])


@define("semi_structured_conv2d", reference=reference.semi_structured_conv2d, fake=_fake, visible=always)
def _conv(
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    geometry: list[int],
    n: int,
    m: int,
    activation: str | None,
) -> Tensor:
    if x.dtype == torch.float64:
        return reference.semi_structured_conv2d(x, values, indices, bias, residual, geometry, n, m, activation)
    tensors = all_given(x, *contiguous(values, indices, bias), residual)
    return spread_conv(tensors, (tuple(geometry), n, m, activation, precision()))


def _setup_context(ctx, inputs, output):
    x, values, indices, _, _, *ctx.settings, _ = inputs
    ctx.save_for_backward(x, values, indices)


def _backward(ctx, dy):
    x, values, indices = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dx = dvalues = None
    if needs[0]:
        dx = reference.semi_structured_conv2d_dx(dy, x, values, indices, *ctx.settings)
    if needs[1]:
        dvalues = reference.semi_structured_conv2d_dvalues(dy, x, indices, *ctx.settings)
    return dx, dvalues, None, dy.sum((0, 1, 2)) if needs[3] else None, *[None] * 5


differentiable(_conv, _backward, _setup_context)
