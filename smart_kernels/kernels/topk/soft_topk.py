"""mask = sigmoid((scores - threshold) / temperature) with sum(cost * mask) = keep: what both kernels share.

          sum(cost * mask)                   The sum falls as the threshold rises: a bracket holds the root.
    total |-----.
          |      \\  <- Newton               low  = min(scores) - temperature * logit(keep / total)
     keep |.......\\......                   high = max(scores) - temperature * logit(keep / total)
          |        '-----
          +--|----|---|-- threshold          A step of Newton from an error of e * temperature leaves e^2 / 2 of the
            low      high                    budget: after one shorter than NEAR * temperature the group is done.

Thresholds are fp64, scores stay fp32: subtracting the threshold in two fp32 parts is as exact, and fp64 is slow.
"""

import triton
import triton.language as tl

NEAR = tl.constexpr(1e-3)
EXACT = tl.constexpr(1e-20)  # a smaller excess of the budget counts as none: fp32 underflows soon after
INF = tl.constexpr(float("inf"))


@triton.jit
def span(bounds_ptr, group, n):
    """Return the first score of a group, or of several, and how many there are; without bounds each has n."""
    if bounds_ptr is None:
        return group * n, n
    else:
        first = tl.load(bounds_ptr + group)
        return first, tl.load(bounds_ptr + group + 1) - first


@triton.jit
def split(threshold):
    """Split fp64 into the sum of two fp32."""
    lead = threshold.to(tl.float32)
    rest = tl.where(tl.abs(lead) == INF, 0.0, threshold - lead.to(tl.float64)).to(tl.float32)
    return lead, rest


@triton.jit
def soft_mask(scores, lead, rest, inv_temperature):
    """Compute the mask.

    Infinite scores are pinned to 0 and 1, also where the threshold is infinite; a NaN threshold gives NaN.
    """
    mask = tl.sigmoid((scores - lead - rest) * inv_temperature)
    mask = tl.where(tl.abs(scores) == INF, tl.where(scores > 0, 1.0, 0.0), mask)
    return tl.where(lead == lead, mask, lead)


@triton.jit
def free_cost(scores, cost):
    """Return the cost of what is neither pinned nor padding. NaN scores make it NaN, which ends in the threshold."""
    return tl.where(tl.abs(scores) == INF, 0.0, tl.where(scores == scores, cost, scores)).to(tl.float64)


@triton.jit
def pinned_cost(scores, cost):
    return tl.where(scores == INF, cost, 0.0).to(tl.float64)


@triton.jit
def bracket(lowest, highest, total, pinned, keep, temperature):
    """Return [low, high] around the threshold; both are the threshold itself where nothing is left to solve."""
    budget = keep - pinned
    solvable = (budget > 0) & (budget < total)
    offset = temperature * tl.log(tl.where(solvable, budget, 1.0) / tl.where(solvable, total - budget, 1.0))
    closed = tl.where(total == total, tl.where(budget > 0, -INF, INF), total)
    return tl.where(solvable, lowest - offset, closed), tl.where(solvable, highest - offset, closed)


@triton.jit
def mask_sums(scores, cost, lead, rest, inv_temperature, AXIS: tl.constexpr):
    """Return sum(cost * mask) and sum(cost * mask * (1 - mask)), fp64."""
    z = (scores - lead - rest) * inv_temperature
    g = tl.sigmoid(-tl.abs(z))  # min(mask, 1 - mask), which does not round to 1: the sum sees every last bit
    hard = tl.sum(tl.where(z > 0, cost, 0.0), AXIS).to(tl.float64)
    soft = tl.sum(tl.where(z > 0, -g, g) * cost, AXIS).to(tl.float64)
    return hard + soft, tl.sum(g * (1.0 - g) * cost, AXIS).to(tl.float64)


@triton.jit
def newton_step(excess, slope, temperature):
    """Return how far the threshold has to rise, rounded to fp32.

    ``excess`` is sum(cost mask) - keep and ``slope`` is sum(cost mask (1 - mask)).
    """
    quotient = excess.to(tl.float32) / slope.to(tl.float32)
    return tl.where(tl.abs(excess) <= EXACT, 0.0, temperature * quotient.to(tl.float64))
