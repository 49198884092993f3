import torch
from torch import Tensor

from smart_kernels.ops.common.library import define, differentiable
from smart_kernels.reference.topk.soft_topk import soft_topk as forward_reference
from smart_kernels.reference.topk.soft_topk import soft_topk_backward as backward_reference

from . import launch as launchers


def soft_topk(
    scores: Tensor, keep: float, temperature: float, cost: Tensor | None = None, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``mask = sigmoid((scores - threshold) / temperature)`` with ``sum(cost * mask) = keep`` in every group.

    A group is the last dimension. Both results are differentiable in ``scores``, with the exact Jacobian
    ``d threshold / d scores = cost v / sum(cost v)``, ``v = mask (1 - mask)``; it is 0 where all v underflow. The graph
    may be run backward several times. The budget holds to 1e-5 for ``temperature >= 1e-3``; below, order still does.

    Equal scores get equal masks. Scores of +inf and -inf are pinned to 1 and 0 and the others share what is left; if
    that is nothing (or enough for all) they get exactly 0 (1) and the threshold is +inf (-inf). So do ``keep = 0`` and
    ``keep = sum(cost)``. A NaN makes the mask and the threshold of its group NaN. On a GPU nothing waits for the host,
    and the number of launches depends on the shape alone.

    Args:
        scores: (..., n) floating point; solved in fp32, float64 in float64.
        keep: between 0 and sum(cost); beyond sum(cost) everything is kept.
        temperature: above 0.
        cost: (n,) or (..., n) positive weight of each score in the budget; ``None`` means 1 each.
        start: (...) guess of the threshold, such as the last one; not finite or out of reach is ignored.

    Returns:
        mask (..., n), fp32 or float64, and threshold (...), always float64.

    Raises:
        ValueError: a shape, dtype or device that does not fit, ``keep`` or ``temperature`` out of range.

    Source: SMART, arXiv 2403.19969, section 3 (operator); Jacobian by implicit differentiation.
    """
    _check(scores, keep, temperature, cost, start)
    *groups, n = scores.shape
    exact = scores if scores.dtype == torch.float64 else scores.float()
    if cost is not None:
        cost = cost.detach().to(exact.dtype).reshape(-1, n)
    if start is not None:
        start = start.detach().double().reshape(-1)
    mask, threshold = _soft_topk(exact.reshape(-1, n), float(keep), float(temperature), cost, start)
    return mask.view(scores.shape), threshold.view(groups)


def _check(scores: Tensor, keep: float, temperature: float, cost: Tensor | None, start: Tensor | None) -> None:
    if not scores.is_floating_point() or scores.dim() == 0 or scores.shape[-1] == 0:
        raise ValueError(f"scores must be floating point (..., n >= 1), got {scores.dtype} {tuple(scores.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    n = scores.shape[-1]
    if not 0 <= keep <= (n if cost is None else float("inf")):
        raise ValueError(f"keep must be between 0 and the total cost of {n} scores, got {keep}")
    if cost is not None and cost.shape not in ((n,), scores.shape):
        raise ValueError(f"cost must be ({n},) or {tuple(scores.shape)} like scores, got {tuple(cost.shape)}")
    if start is not None and start.shape != scores.shape[:-1]:
        raise ValueError(f"start must be {tuple(scores.shape[:-1])}, one per group, got {tuple(start.shape)}")
    for name, tensor in (("cost", cost), ("start", start)):
        if tensor is not None and tensor.device != scores.device:
            raise ValueError(f"{name} must be on the device of scores, {scores.device}, got {tensor.device}")


def _shapes(
    scores: Tensor, keep: float, temperature: float, cost: Tensor | None = None, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.shape), scores.new_empty(scores.shape[0], dtype=torch.float64)


@define("soft_topk", reference=forward_reference, fake=_shapes)
def _soft_topk(
    scores: Tensor, keep: float, temperature: float, cost: Tensor | None = None, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    if scores.dtype == torch.float64 or len(scores) == 0:
        return forward_reference(scores, keep, temperature, cost, start)
    launch = launchers.launch_small if scores.shape[1] <= launchers.SMALL else launchers.launch_large
    return launch(scores.contiguous(), keep, temperature, cost, start)


@define("soft_topk_backward", reference=backward_reference)
def _soft_topk_backward(
    dmask: Tensor, dthreshold: Tensor, mask: Tensor, cost: Tensor | None, temperature: float
) -> Tensor:
    small = mask.dtype != torch.float64 and len(mask) > 0 and mask.shape[1] <= launchers.SMALL
    return (launchers.launch_small_backward if small else backward_reference)(
        dmask, dthreshold, mask, cost, temperature
    )


def _setup_context(ctx, inputs, output):
    # attributes, not save_for_backward: one mask serves all micro-batches of a step, each with its own backward
    _, _, ctx.temperature, ctx.cost, _ = inputs
    ctx.mask = output[0].detach()


def _backward(ctx, dmask, dthreshold):
    return _soft_topk_backward(dmask, dthreshold, ctx.mask, ctx.cost, ctx.temperature), None, None, None, None


differentiable(_soft_topk, _backward, _setup_context)
