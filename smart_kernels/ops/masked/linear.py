"""``masked_linear``: linear layer whose weight is scaled, tile by tile, by a mask."""

import torch
from torch import Tensor

from smart_kernels.ops.common.inputs import autocast, flat, no_autocast, unsuited
from smart_kernels.ops.common.library import always, define, differentiable
from smart_kernels.reference.masked import linear as reference

from .checks import check_linear
from .live_blocks import TileMask
from .matmul import Wanted, matmul, weight_grad


def masked_linear(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    *,
    tile: tuple[int, int],
    eps: float = 0.0,
    dead_grad: bool = False,
) -> Tensor:
    """Return ``x @ (weight * expand(mask)).T + bias``, skipping dead tiles, those with mask <= eps.

    A dead tile is neither loaded nor multiplied, forward or backward, and its dweight and dmask are exactly 0.
    Differentiable in ``x``, ``weight``, ``mask`` and ``bias``; deterministic.

    Args:
        x: (..., K) activations; fp32, fp16, bf16 or fp64. Under autocast they are cast, the others are not.
        weight: (N, K), may be wider than ``x``.
        mask: (ceil(N / tile_n), ceil(K / tile_k)) one value in [0, 1] per tile. NaN is live.
        bias: (N,) or None.
        tile: (tile_n, tile_k), what one mask value covers.
        eps: in [0, 1).
        dead_grad: compute dmask in dead tiles too, at the cost of a dense backward.

    Returns:
        (..., N), dtype of ``x``, accumulated in fp32 (fp64 for fp64).

    Raises:
        ValueError: a shape, device, tile or eps does not fit.
    """
    check_linear(x, weight, mask, bias, "mask", tile, eps)
    x = autocast(x)
    with no_autocast(x):
        y = _masked_linear(flat(x), weight, mask, bias, *tile, eps, dead_grad)
    return y.view(*x.shape[:-1], len(weight))


@define("masked_linear", reference=reference.masked_linear, visible=always)
def _masked_linear(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    tile_n: int,
    tile_k: int,
    eps: float,
    dead_grad: bool,
) -> Tensor:
    if unsuited(x, weight, mask):
        return reference.masked_linear(x, weight, mask, bias, tile_n, tile_k, eps, dead_grad)
    return matmul(x, weight, TileMask(mask, (tile_n, tile_k), eps), bias)


@define("masked_linear_backward", reference=reference.masked_linear_backward, visible=always)
def _masked_linear_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    tile_n: int,
    tile_k: int,
    eps: float,
    dead_grad: bool,
    needs_dweight: bool,
    needs_dmask: bool,
    dbias: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    if unsuited(x, weight, mask):
        return reference.masked_linear_backward(
            dy, x, weight, mask, tile_n, tile_k, eps, dead_grad, needs_dweight, needs_dmask, dbias
        )
    tiles = TileMask(mask, (tile_n, tile_k), eps)
    return weight_grad(dy, x, weight, tiles, Wanted(needs_dweight, needs_dmask, dead_grad, dbias))


def _setup_context(ctx, inputs, output):
    x, weight, mask, bias, *ctx.settings = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight, mask)


def _backward(ctx, dy):
    x, weight, mask = ctx.saved_tensors
    tile_n, tile_k, eps, dead_grad = ctx.settings
    dx = None
    if ctx.needs_input_grad[0]:  # the forward of the transposed weight
        dx = _masked_linear(dy, weight.T, mask.T, None, tile_k, tile_n, eps, dead_grad)
    return dx, *parameter_gradients(ctx, dy, x, weight, mask), None, None, None, None


def parameter_gradients(ctx, dy: Tensor, x: Tensor, weight: Tensor, mask: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of weight, mask and bias, None where none is needed; settings and dtype lie in ``ctx``."""
    needs = ctx.needs_input_grad[1:4]
    if not any(needs[:2]):
        return None, None, dy.sum(0, dtype=ctx.bias_dtype) if needs[2] else None
    found = _masked_linear_backward(
        dy, x, weight, mask, *ctx.settings, *needs[:2], ctx.bias_dtype if needs[2] else None
    )
    return tuple(each if needed else None for each, needed in zip(found, needs, strict=True))


differentiable(_masked_linear, _backward, _setup_context)
