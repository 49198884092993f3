"""The product with a packed 2:4 weight where it trains: forward and input gradient on sparse tensor cores."""

import torch
from torch import Tensor

from smart_kernels.ops.common.arguments import precision
from smart_kernels.ops.common.inputs import contiguous, flat, needs_gradient, no_autocast
from smart_kernels.ops.common.launch import NOTHING
from smart_kernels.ops.common.library import TRITON_DEVICES, define, differentiable
from smart_kernels.ops.common.nm_matmul import spread_matmul
from smart_kernels.reference.common.epilogue import finish
from smart_kernels.reference.common.nm import expand
from smart_kernels.shapes import groups_of

from . import packing
from .gather import kept, turned
from .launch import like, matmul
from .packing import PackedWeight


def linear(
    x: Tensor,
    packed: PackedWeight,
    bias: Tensor | None = None,
    metadata_t: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Return ``activation(x @ W.T + bias + residual)``, differentiable in ``x``, ``packed.weight`` and ``bias``.

    Args:
        x: (..., K) of the weight's dtype.
        packed: the weight (N, K).
        bias: (N,) same dtype, or None.
        metadata_t: of W.T where that is 2:4, too: the gradient of ``x`` is then a sparse product. ``turned_metadata``.
        activation, residual: as in ``semi_structured_linear``; fused where no gradient is needed and nobody compiles.

    Returns:
        (..., N).
    """
    args = flat(x), packed.weight, packed.metadata, bias
    shape = *x.shape[:-1], packed.out_features
    if needs_gradient(*args, residual) or torch.compiler.is_compiling():
        with no_autocast(x):
            y = _linear(*args, metadata_t, packed.kernel, packed.out_features).view(shape)
        return y if activation is residual is None else finish(y, None, residual, activation)
    return matmul(args[0], packed, bias, None if residual is None else flat(residual), activation).view(shape)


def _dense(weight: Tensor, metadata: Tensor, kernel: str, N: int, K: int) -> Tensor:
    return expand(*_saved(weight, metadata, kernel, N, K), 2, 4, K)


def _saved(weight: Tensor, metadata: Tensor, kernel: str, N: int, K: int) -> tuple[Tensor, Tensor]:
    return packing.unpack(PackedWeight(kernel, weight, metadata, N, groups_of(K, 4)))


def _reference(x, weight, metadata, bias, metadata_t, kernel, N):
    wide = torch.promote_types(x.dtype, torch.float32)
    y = x.to(wide) @ _dense(weight.to(wide), metadata, kernel, N, x.shape[1]).T
    return (y if bias is None else y + bias.to(wide)).to(x.dtype)


def _fake(x, weight, metadata, bias, metadata_t, kernel, N):
    return _empty(x, N, kernel)


def _dx_reference(dy, weight, metadata, metadata_t, kernel, K):
    wide = torch.promote_types(dy.dtype, torch.float32)
    return (dy.to(wide) @ _dense(weight.to(wide), metadata, kernel, dy.shape[1], K)).to(dy.dtype)


def _fake_dx(dy, weight, metadata, metadata_t, kernel, K):
    return _empty(dy, K, kernel) if metadata_t is not None else dy.new_empty(dy.shape[0], K)


def _empty(x, size, kernel):
    """Return an empty result with the strides that the launcher gives it, or the reference."""
    return like(x, size, kernel) if x.device.type in TRITON_DEVICES else x.new_empty(x.shape[0], size)


@define("sparse_tensor_linear", reference=_reference, fake=_fake)
def _linear(
    x: Tensor, weight: Tensor, metadata: Tensor, bias: Tensor | None, metadata_t: Tensor | None, kernel: str, N: int
) -> Tensor:
    return matmul(x, PackedWeight(kernel, weight, metadata, N, groups_of(x.shape[1], 4)), bias)


@define("sparse_tensor_linear_dx", reference=_dx_reference, fake=_fake_dx)
def _linear_dx(dy: Tensor, weight: Tensor, metadata: Tensor, metadata_t: Tensor | None, kernel: str, K: int) -> Tensor:
    N = dy.shape[1]
    if metadata_t is None:  # no instruction multiplies a matrix that is 2:4 along its other side
        saved = contiguous(*_saved(weight, metadata, kernel, N, K))
        return spread_matmul((dy, *saved, NOTHING, NOTHING), (2, 4, K, None, True, precision()))
    weight_t = turned(weight, metadata, metadata_t, kernel, N, K)
    return matmul(dy, PackedWeight(kernel, weight_t, metadata_t, K, N // 4))


def _setup_context(ctx, inputs, output):
    x, weight, metadata, _, metadata_t, ctx.kernel, _ = inputs
    ctx.save_for_backward(x, weight, metadata, metadata_t)


def _backward(ctx, dy):
    x, weight, metadata, metadata_t = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dx = _linear_dx(dy, weight, metadata, metadata_t, ctx.kernel, x.shape[1]) if needs[0] else None
    dweight = kept(dy.T @ x, metadata, ctx.kernel) if needs[1] else None
    return dx, dweight, None, dy.sum(0) if needs[3] else None, None, None, None


differentiable(_linear, _backward, _setup_context)
