"""``semi_structured_linear``: linear layer whose weight keeps n of every m weights."""

import torch
from torch import Tensor

from smart_kernels.ops.common.arguments import precision
from smart_kernels.ops.common.inputs import autocast_all, autocasts, contiguous, flat, needs_gradient, no_autocast
from smart_kernels.ops.common.launch import NOTHING, all_given
from smart_kernels.ops.common.library import always, define, differentiable
from smart_kernels.ops.common.nm import transposed
from smart_kernels.ops.common.nm_matmul import spread_matmul
from smart_kernels.reference.common.epilogue import finish
from smart_kernels.reference.semi_structured import linear as reference

from .checks import check


def semi_structured_linear(
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    bias: Tensor | None = None,
    *,
    n: int = 2,
    m: int = 4,
    activation: str | None = None,
    residual: Tensor | None = None,
    transposable: bool = False,
) -> Tensor:
    """Return ``activation(x @ W.T + bias + residual)``, W with n of every m weights along K stored.

    Differentiable in ``x``, ``values``, ``bias`` and ``residual``. The indices are trusted: see
    ``check_places``. On a GPU the portable kernel runs; 2:4 layers may run on sparse tensor cores instead.

    Args:
        x: (..., K) activations; fp32, fp16, bf16 or fp64. Under autocast all floating inputs are cast.
        values: (N, ceil(K / m) * n) dtype of ``x``.
        indices: (N, ceil(ceil(K / m) * n * bits / 8)) uint8, bits = ceil(log2 m), the place of each value in its
            group, rising, lowest bits first.
        bias: (N,) dtype of ``x``, or None.
        n, m: what is kept of every m weights; m = 2, 4 or 8.
        activation: None, "relu", "relu6", "gelu", "gelu_tanh" or "silu".
        residual: (..., N) dtype of ``x``, or None.
        transposable: W.T is 2:4 as well, so that the gradient of ``x`` is a product of this kind, too.

    Returns:
        (..., N), dtype of ``x``, accumulated in fp32 (fp64 for fp64).

    Raises:
        ValueError: a shape, dtype, device or activation does not fit.
    """
    if autocasts(x):
        x, values, bias, residual = autocast_all(x, values, bias, residual)
    check((x, values, indices, bias, residual), (n, m, activation, transposable))
    y_shape = *x.shape[:-1], len(values)
    with no_autocast(x):
        if needs_gradient(x, values, bias, residual):  # torch differentiates what follows the product
            y = _semi_structured_linear(flat(x), values, indices, bias, None, n, m, None, transposable)
            return finish(y.view(y_shape), None, residual, activation)
        rest = None if residual is None else flat(residual)
        return _semi_structured_linear(flat(x), values, indices, bias, rest, n, m, activation, False).view(y_shape)


def _linear_reference(x, values, indices, bias, residual, n, m, activation, transposable):
    return reference.semi_structured_linear(x, values, indices, bias, residual, n, m, activation)


def _fake(x, values, *args):
    return x.new_empty(x.shape[0], values.shape[0])


def _fake_dx(dy, values, indices, n, m, in_features, transposable):
    return dy.new_empty(dy.shape[0], in_features)


@define("semi_structured_linear", reference=_linear_reference, fake=_fake, visible=always)
def _semi_structured_linear(
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    n: int,
    m: int,
    activation: str | None,
    transposable: bool,
) -> Tensor:
    if x.dtype == torch.float64:
        return reference.semi_structured_linear(x, values, indices, bias, residual, n, m, activation)
    tensors = all_given(x, *contiguous(values, indices, bias), residual)
    return spread_matmul(tensors, (n, m, len(values), activation, False, precision()))


def _dx_reference(dy, values, indices, n, m, in_features, transposable):
    return reference.semi_structured_linear_dx(dy, values, indices, n, m, in_features)


@define("semi_structured_linear_dx", reference=_dx_reference, fake=_fake_dx, visible=always)
def _semi_structured_linear_dx(
    dy: Tensor, values: Tensor, indices: Tensor, n: int, m: int, in_features: int, transposable: bool
) -> Tensor:
    if dy.dtype == torch.float64:
        return reference.semi_structured_linear_dx(dy, values, indices, n, m, in_features)
    saved = contiguous(values, indices)
    if transposable:
        saved = transposed(saved, (in_features,))
    tensors = dy, *saved, NOTHING, NOTHING
    return spread_matmul(tensors, (n, m, in_features, None, not transposable, precision()))


def _setup_context(ctx, inputs, output):
    x, values, indices, _, _, ctx.n, ctx.m, _, ctx.transposable = inputs
    ctx.save_for_backward(x, values, indices)


def _backward(ctx, dy):
    x, values, indices = ctx.saved_tensors
    needs = ctx.needs_input_grad
    kept = ctx.n, ctx.m
    dx = dvalues = None
    if needs[0]:
        dx = _semi_structured_linear_dx(dy, values, indices, *kept, x.shape[1], ctx.transposable)
    if needs[1]:
        dvalues = reference.semi_structured_linear_dvalues(dy, x, indices, *kept)
    return dx, dvalues, None, dy.sum(0) if needs[3] else None, *[None] * 5


differentiable(_semi_structured_linear, _backward, _setup_context)
