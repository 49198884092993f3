"""``smart_linear``: ``masked_linear`` whose soft mask is computed from scores inside the kernels and never stored."""

import torch
from torch import Tensor

from smart_kernels.ops.common.inputs import autocast, flat, no_autocast, temperature_of, unsuited
from smart_kernels.ops.common.library import always, define, differentiable
from smart_kernels.reference.masked import smart_linear as reference
from smart_kernels.shapes.tiles import grid, reduce_sum

from .checks import check_linear
from .live_blocks import TileMask
from .matmul import Wanted, matmul, weight_grad


def smart_linear(
    x: Tensor,
    weight: Tensor,
    scores: Tensor,
    threshold: Tensor,
    temperature: float | Tensor,
    bias: Tensor | None = None,
    *,
    tile: tuple[int, int],
    group: tuple[int, int] | None = None,
    eps: float = 0.0,
    dead_grad: bool = False,
) -> Tensor:
    """Apply ``masked_linear`` with ``mask = sigmoid((scores - threshold) / temperature)``.

    Gradients: with f the mask, v = f (1 - f) and dmask that of ``masked_linear``, dscores = v dmask / temperature and
    dthreshold = -sum of dscores over the group. With the threshold of ``soft_topk`` this is the exact gradient of the
    budget, over as many layers as share it. ``temperature`` is a constant.

    Args:
        x: (..., K) activations; fp32, fp16, bf16 or fp64. Under autocast they are cast, the others are not.
        weight: (N, K), may be wider than ``x``.
        scores: (ceil(N / tile_n), ceil(K / tile_k)) one per tile; +inf is always kept, -inf never.
        threshold: fp64 or fp32; one value, or (ceil(rows / group[0]), ceil(cols / group[1])) for (rows, cols) scores.
        temperature: float or 0-d tensor, > 0.
        bias: (N,) or None.
        tile: (tile_n, tile_k), what one score covers.
        group: (rows, cols) of scores that share a threshold; None: all.
        eps: in [0, 1); tiles with mask <= eps are dead.
        dead_grad: compute dscores in dead tiles too, at the cost of a dense backward.

    Returns:
        (..., N), dtype of ``x``, accumulated in fp32 (fp64 for fp64).

    Raises:
        ValueError: a shape, device, tile, eps or temperature does not fit.
    """
    check_linear(x, weight, scores, bias, "scores", tile, eps)
    threshold, group = _by_group(threshold, group, scores)
    temperature = temperature_of(temperature, scores)
    x = autocast(x)
    with no_autocast(x):
        y = _smart_linear(flat(x), weight, scores, threshold, temperature, bias, *tile, *group, eps, dead_grad)
    return y.view(*x.shape[:-1], len(weight))


def _by_group(threshold: Tensor, group: tuple[int, int] | None, scores: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Return the threshold as one value per group, and the group; raise ``ValueError`` unless they fit the scores."""
    if threshold.device != scores.device:
        raise ValueError(f"threshold must be on the device of scores, {scores.device}, got {threshold.device}")
    shape = tuple(scores.shape)
    if group is None:
        if threshold.numel() != 1:
            raise ValueError(f"threshold must be one value where group is None, got {tuple(threshold.shape)}")
        return threshold.reshape(1, 1), (max(1, shape[0]), max(1, shape[1]))
    if len(group) != 2 or min(group) < 1:
        raise ValueError(f"group must be two positive sizes, got {group}")
    if threshold.shape != grid(shape, group):
        raise ValueError(
            f"threshold must be {grid(shape, group)} for scores {shape} and group {group}, got {tuple(threshold.shape)}"
        )
    return threshold, group


@define("smart_linear", reference=reference.smart_linear, visible=always)
def _smart_linear(
    x: Tensor,
    weight: Tensor,
    scores: Tensor,
    threshold: Tensor,
    temperature: Tensor,
    bias: Tensor | None,
    tile_n: int,
    tile_k: int,
    group_n: int,
    group_k: int,
    eps: float,
    dead_grad: bool,
) -> Tensor:
    if unsuited(x, weight, scores):
        return reference.smart_linear(
            x, weight, scores, threshold, temperature, bias, tile_n, tile_k, group_n, group_k, eps, dead_grad
        )
    mask = TileMask(scores, (tile_n, tile_k), eps, threshold, temperature, (group_n, group_k))
    return matmul(x, weight, mask, bias)


@define("smart_linear_backward", reference=reference.smart_linear_backward, visible=always)
def _smart_linear_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    scores: Tensor,
    threshold: Tensor,
    temperature: Tensor,
    tile_n: int,
    tile_k: int,
    group_n: int,
    group_k: int,
    eps: float,
    dead_grad: bool,
    needs_dweight: bool,
    needs_dscores: bool,
    dbias: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    mask = TileMask(scores, (tile_n, tile_k), eps, threshold, temperature, (group_n, group_k))
    wanted = Wanted(needs_dweight, needs_dscores, dead_grad, dbias)
    if not unsuited(x, weight, scores):
        return _gradients(dy, x, weight, mask, wanted)
    args = dy, x, weight, *mask.tensors, *mask.tile, *mask.group, eps
    return reference.smart_linear_backward(*args, dead_grad, needs_dweight, needs_dscores, dbias)


def _gradients(dy: Tensor, x: Tensor, weight: Tensor, mask: TileMask, wanted: Wanted) -> tuple[Tensor, ...]:
    dweight, dscores, dbias = weight_grad(dy, x, weight, mask, wanted)
    threshold = mask.threshold
    if not wanted.dmask:
        return dweight, dscores, threshold.new_empty(0), dbias
    return dweight, dscores, -reduce_sum(dscores.double(), mask.group).to(threshold.dtype), dbias


def _setup_context(ctx, inputs, output):
    *tensors, bias, tile_n, tile_k, group_n, group_k, ctx.eps, ctx.dead_grad = inputs
    ctx.tile = tile_n, tile_k
    ctx.group = group_n, group_k
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(*tensors)


def _backward(ctx, dy):
    x, weight, scores, threshold, temperature = ctx.saved_tensors
    settings = ctx.eps, ctx.dead_grad
    needs_dx, needs_dweight, needs_dscores, needs_dthreshold, _, needs_dbias = ctx.needs_input_grad[:6]
    needs_dmask = needs_dscores or needs_dthreshold
    dx = None
    if needs_dx:  # the forward of the transposed weight
        dx = _smart_linear(
            dy, weight.T, scores.T, threshold.T, temperature, None, *ctx.tile[::-1], *ctx.group[::-1], *settings
        )
    if needs_dweight or needs_dmask:
        wanted = needs_dweight, needs_dmask, ctx.bias_dtype if needs_dbias else None
        found = _smart_linear_backward(
            dy, x, weight, scores, threshold, temperature, *ctx.tile, *ctx.group, *settings, *wanted
        )
    else:
        found = None, None, None, dy.sum(0, dtype=ctx.bias_dtype) if needs_dbias else None
    needs = needs_dweight, needs_dscores, needs_dthreshold, needs_dbias
    dweight, dscores, dthreshold, dbias = (each if need else None for each, need in zip(found, needs, strict=True))
    return dx, dweight, dscores, dthreshold, None, dbias, *[None] * 6


differentiable(_smart_linear, _backward, _setup_context)
