"""Soft top-k: mask = sigmoid((scores - threshold) / temperature) with sum(cost * mask) = keep, in plain PyTorch.

SMART, arXiv 2403.19969, section 3 (operator); Jacobian by implicit differentiation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from smart_kernels.reference.common.soft_mask import soft_mask

NEWTON, BISECT = 32, 48  # steps: Newton's while it is trusted, then enough halvings for any bracket
EXACT = 1e-20  # a smaller excess of the budget counts as none: fp32 underflows soon after
UNDERFLOW = 1e-12  # below this sum of cost * mask * (1 - mask) no score moves the threshold


def soft_topk(
    scores: Tensor,
    keep: Tensor,
    temperature: Tensor,
    cost: Tensor | None = None,
    start: Tensor | None = None,
    sizes: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Return (G, n) mask in the dtype of scores, (G,) float64 threshold.

    Args:
        scores: (G, n); with sizes (sum(sizes),), groups of these sizes one behind the other, and so are mask and cost.
        keep: (1,) or (G,).
        temperature: 0-d.
        cost: (1 or G, n).
        start: (G,).
        sizes: of the groups, none where all have n scores.
    """
    if sizes:
        groups = zip(_rows(scores, sizes), _each(keep, sizes), _rows(cost, sizes), _each(start, sizes), strict=True)
        parts = [soft_topk(row, budget, temperature, *others) for row, budget, *others in groups]
        return torch.cat([mask[0] for mask, _ in parts]), torch.cat([threshold for _, threshold in parts])
    threshold = _solve(scores, keep, temperature, cost, start)
    return soft_mask(scores, threshold[:, None], temperature), threshold


def soft_topk_backward(
    dmask: Tensor,
    dthreshold: Tensor | None,
    mask: Tensor,
    temperature: Tensor,
    cost: Tensor | None,
    sizes: Sequence[int] = (),
) -> Tensor:
    """Return v / temperature * (dmask - cost * (sum(v dmask) - temperature * dthreshold) / sum(cost v)).

    v = mask * (1 - mask); 0 where every v of a group underflows.
    """
    if sizes:
        rows = zip(*(_rows(each, sizes) for each in (dmask, mask, cost)), _each(dthreshold, sizes), strict=True)
        return torch.cat([soft_topk_backward(d, h, m, temperature, c)[0] for d, m, c, h in rows])
    cost = torch.ones_like(mask[:1]) if cost is None else cost.to(mask.dtype)
    v = mask * (1 - mask)
    slope = (cost * v).sum(-1, keepdim=True)
    push = (v * dmask).sum(-1, keepdim=True)
    if dthreshold is not None:
        push = push - (temperature * dthreshold[:, None]).to(mask.dtype)
    return torch.where(slope < UNDERFLOW, 0, v / temperature.to(mask.dtype) * (dmask - cost * (push / slope)))


def _rows(values: Tensor | None, sizes: Sequence[int]) -> list[Tensor | None]:
    """Cut (sum(sizes),) into a (1, size) for each group."""
    return [None] * len(sizes) if values is None else [part[None] for part in values.split(list(sizes))]


def _each(values: Tensor | None, sizes: Sequence[int]) -> list[Tensor | None]:
    """Cut (1,) or (G,) into a (1,) for each group."""
    return [None] * len(sizes) if values is None else list(values.expand(len(sizes)).split(1))


def _solve(
    scores: Tensor, keep: float | Tensor, temperature: float | Tensor, cost: Tensor | None, start: Tensor | None
) -> Tensor:
    """Solve for the (G,) float64 thresholds by a safeguarded Newton, for all groups at once that are not done."""
    # Newton from an error of e * temperature leaves at most e^2 / 2 of the budget
    near = temperature * (1e-8 if scores.dtype == torch.float64 else 1e-3)
    cost = None if cost is None else cost.to(scores.dtype).expand_as(scores)
    keep = torch.as_tensor(keep, dtype=torch.float64, device=scores.device).expand(len(scores))
    state = _start(*_bracket(scores, keep, temperature, cost), start)
    for turn in range(NEWTON + BISECT):
        live = state[0] < state[1]
        if not live.any():
            break
        rows = slice(None) if live.all() else live.nonzero()[:, 0]
        low, high, threshold, move = state[:, rows]
        excess, slope = _excess(scores[rows], threshold, temperature, None if cost is None else cost[rows], keep[rows])
        low, high = torch.where(excess > 0, threshold, low), torch.where(excess > 0, high, threshold)
        step = torch.where(excess.abs() <= EXACT, 0, temperature * excess / slope)
        newton = threshold + step
        done = step.abs() <= near
        trusted = (newton > low) & (newton < high) & (step.abs() <= move / 2) & (turn < NEWTON)
        following = torch.where(done | trusted, newton, (low + high) / 2)
        low, high = torch.where(done, following, low), torch.where(done, following, high)
        state[:, rows] = torch.stack((low, high, following, (following - threshold).abs()))
    return state[2].clone()


def _start(low: Tensor, high: Tensor, start: Tensor | None) -> Tensor:
    """Return low, high, the first threshold and how far the last step went, (4, G)."""
    threshold = (low + high) / 2
    if start is not None:
        threshold = torch.where((start > low) & (start < high), start, threshold)
    return torch.stack((low, high, threshold, high - low))


def _excess(scores: Tensor, threshold: Tensor, temperature: float, cost: Tensor | None, keep: Tensor):
    """Return sum(cost * mask) - keep, and sum(cost * mask * (1 - mask)), at a threshold per group."""
    lead = threshold.to(scores.dtype)  # two fp32 subtractions do the work of a float64 one
    rest = (threshold - lead).to(scores.dtype)
    z = (scores - lead[:, None]).sub_(rest[:, None]).div_(temperature)
    above = z > 0
    g = z.abs_().neg_().sigmoid_()  # min(mask, 1 - mask), which does not round to 1: the sum sees every last bit
    hard = _total(above.to(g.dtype), cost)
    soft = _total(torch.where(above, -g, g), cost)
    return (hard - keep) + soft, _total(g.mul_(1 - g), cost)


def _bracket(scores: Tensor, keep: Tensor, temperature: float | Tensor, cost: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return ends between which the threshold lies; both are the threshold where nothing is left to solve."""
    up = scores == torch.inf
    down = scores == -torch.inf
    nan = scores.isnan().any(-1)
    total = _total((~(up | down)).to(scores.dtype), cost)
    budget = keep - _total(up.to(scores.dtype), cost)
    offset = temperature * (budget / (total - budget)).log()
    low = scores.masked_fill(down, torch.inf).amin(-1)
    high = scores.masked_fill(up, -torch.inf).amax(-1)
    closed = torch.where(budget > 0, -torch.inf, torch.inf).masked_fill(nan, torch.nan)
    solvable = (budget > 0) & (budget < total) & ~nan
    return torch.where(solvable, low - offset, closed), torch.where(solvable, high - offset, closed)


def _total(values: Tensor, cost: Tensor | None) -> Tensor:
    return (values if cost is None else values * cost).sum(-1, dtype=torch.float64)
