"""``soft_topk``: masks that keep a budget."""

from collections.abc import Sequence

import torch
from torch import Tensor

from smart_kernels.ops.common.inputs import temperature_of
from smart_kernels.ops.common.launch import all_given
from smart_kernels.ops.common.library import define, differentiable
from smart_kernels.reference.topk.soft_topk import soft_topk as forward_reference
from smart_kernels.reference.topk.soft_topk import soft_topk_backward as backward_reference

from . import launch as launchers


def soft_topk(
    scores: Tensor,
    keep: float | Tensor,
    temperature: float | Tensor,
    cost: Tensor | None = None,
    start: Tensor | None = None,
    *,
    sizes: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Return ``mask = sigmoid((scores - threshold) / temperature)`` with ``sum(cost * mask) = keep`` in every group.

    A group is the last dimension; with ``sizes``, that many scores of one. Both results are differentiable in
    ``scores``, with the exact Jacobian ``d threshold / d scores = cost v / sum(cost v)``, ``v = mask (1 - mask)``; it
    is 0 where all v underflow. The graph may be run backward several times. The budget holds to 1e-5 for
    ``temperature >= 1e-3``; below, order still does.

    Equal scores get equal masks. Scores of +inf and -inf are pinned to 1 and 0 and the others share what is left; if
    that is nothing (or enough for all) they get exactly 0 (1) and the threshold is +inf (-inf). So do ``keep = 0`` and
    ``keep = sum(cost)``. A NaN makes the mask and the threshold of its group NaN. On a GPU nothing waits for the host,
    and the number of launches depends on the shape alone.

    Args:
        scores: (..., n) floating point; solved in fp32, float64 in float64.
        keep: between 0 and sum(cost); beyond sum(cost) everything is kept. One for all groups, or a tensor (...) with
            one for each.
        temperature: above 0. From tensors, whose values are not checked, a CUDA graph takes keep and temperature anew
            each time.
        cost: (n,) or (..., n) positive weight of each score in the budget; ``None`` means 1 each.
        start: (...) guess of the threshold, such as the last one; not finite or out of reach is ignored.
        sizes: how many scores each group has, in order; ``scores`` is one row of them all then.

    Returns:
        mask (..., n), fp32 or float64, and threshold (...), always float64; (len(sizes),) with ``sizes``.

    Raises:
        ValueError: a shape, dtype or device that does not fit, ``keep`` or ``temperature`` out of range.

    Source: SMART, arXiv 2403.19969, section 3 (operator); Jacobian by implicit differentiation.
    """
    _check(scores, keep, temperature, cost, start, sizes)
    n = scores.shape[-1]
    groups = (len(sizes),) if sizes else scores.shape[:-1]
    exact = scores if scores.dtype == torch.float64 else scores.float()
    if cost is not None:
        cost = cost.detach().to(exact.dtype).reshape((n,) if sizes else (-1, n))
    if start is not None:
        start = start.detach().double().reshape(-1)
    exact = exact if sizes else exact.reshape(-1, n)
    mask, threshold = _soft_topk(
        exact, _keep_of(keep, scores), temperature_of(temperature, scores), cost, start, list(sizes)
    )
    return mask.view(scores.shape), threshold.view(groups)


def _keep_of(keep: float | Tensor, scores: Tensor) -> Tensor:
    """Return the budgets as a float64 vector on the device of the scores."""
    if isinstance(keep, Tensor):
        return keep.detach().to(scores.device, torch.float64).reshape(-1)
    return torch.full((1,), keep, dtype=torch.float64, device=scores.device)


def _check(scores, keep, temperature, cost: Tensor | None, start: Tensor | None, sizes: Sequence[int]) -> None:
    if not scores.is_floating_point() or scores.dim() == 0 or scores.shape[-1] == 0:
        raise ValueError(f"scores must be floating point (..., n >= 1), got {scores.dtype} {tuple(scores.shape)}")
    n = scores.shape[-1]
    if sizes and (scores.dim() != 1 or min(sizes) < 1 or sum(sizes) != n):
        raise ValueError(
            f"sizes must be at least 1 and add up to a row of scores, got {sizes} of {tuple(scores.shape)}"
        )
    groups = (len(sizes),) if sizes else scores.shape[:-1]
    _check_target(keep, temperature, n if cost is None else float("inf"), groups)
    if cost is not None and cost.shape not in ((n,), scores.shape):
        raise ValueError(f"cost must be ({n},) or {tuple(scores.shape)} like scores, got {tuple(cost.shape)}")
    if start is not None and start.shape != groups:
        raise ValueError(f"start must be {tuple(groups)}, one per group, got {tuple(start.shape)}")
    for name, tensor in (("cost", cost), ("start", start)):
        if tensor is not None and tensor.device != scores.device:
            raise ValueError(f"{name} must be on the device of scores, {scores.device}, got {tensor.device}")


def _check_target(keep: float | Tensor, temperature: float | Tensor, most: float, groups: Sequence[int]) -> None:
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if isinstance(keep, Tensor):
        if keep.numel() != 1 and keep.shape != groups:
            raise ValueError(f"keep must be one value or {tuple(groups)}, one per group, got {tuple(keep.shape)}")
    elif not 0 <= keep <= most:
        raise ValueError(f"keep must be between 0 and the total cost of {most} scores, got {keep}")


def _fake(scores, keep, temperature, cost, start, sizes):
    groups = len(sizes) if sizes else scores.shape[0]
    return torch.empty_like(scores), scores.new_empty(groups, dtype=torch.float64)


@define("soft_topk", reference=forward_reference, fake=_fake)
def _soft_topk(
    scores: Tensor, keep: Tensor, temperature: Tensor, cost: Tensor | None, start: Tensor | None, sizes: list[int]
) -> tuple[Tensor, Tensor]:
    if scores.dtype == torch.float64 or len(scores) == 0:
        return forward_reference(scores, keep, temperature, cost, start, sizes)
    cost = None if cost is None else cost.contiguous()
    return launchers.forward((scores.contiguous(), keep, temperature, *all_given(cost, start)), (tuple(sizes),))


@define("soft_topk_backward", reference=backward_reference)
def _soft_topk_backward(
    dmask: Tensor,
    dthreshold: Tensor | None,
    mask: Tensor,
    temperature: Tensor,
    cost: Tensor | None,
    sizes: list[int],
) -> Tensor:
    if mask.dtype == torch.float64 or len(mask) == 0:
        return backward_reference(dmask, dthreshold, mask, temperature, cost, sizes)
    dthreshold, cost = all_given(*(None if t is None else t.contiguous() for t in (dthreshold, cost)))
    return launchers.backward((dmask.contiguous(), dthreshold, mask, temperature, cost), (tuple(sizes),))


def _setup_context(ctx, inputs, output):
    # attributes, not save_for_backward: one mask serves all micro-batches of a step, each with its own backward
    _, _, ctx.temperature, ctx.cost, _, ctx.sizes = inputs
    ctx.mask = output[0].detach()
    ctx.set_materialize_grads(False)


def _backward(ctx, dmask, dthreshold):
    dmask = torch.zeros_like(ctx.mask) if dmask is None else dmask
    dscores = _soft_topk_backward(dmask, dthreshold, ctx.mask, ctx.temperature, ctx.cost, ctx.sizes)
    return dscores, *[None] * 5


differentiable(_soft_topk, _backward, _setup_context)
