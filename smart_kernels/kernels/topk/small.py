"""Soft top-k of many small groups: several groups per program, each solved in registers, one launch.

FULL tells the compiler that n = BLOCK_N, hence how rows are aligned: a group of 4 is one 16-byte load.
"""

import triton
import triton.language as tl

from .soft_topk import INF, NEAR, bracket, free_cost, mask_sums, newton_step, pinned_cost, soft_mask, span, split

NEWTON = tl.constexpr(32)  # steps in which Newton may be trusted
STEPS = tl.constexpr(80)  # the rest are halvings: 48 reach fp64 from any bracket


@triton.jit
def load_cost(cost_ptr, bounds_ptr, first, groups, cols, inside, stride_cg):
    if cost_ptr is None:
        return inside.to(tl.float32)
    else:
        rows = groups * stride_cg if bounds_ptr is None else first
        return tl.load(cost_ptr + rows[:, None] + cols[None, :], mask=inside, other=0.0)


@triton.jit
def places(bounds_ptr, G, n, FULL: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return the groups of a program, their first scores, the columns, and which of both there are."""
    groups = tl.program_id(0).to(tl.int64) * BLOCK_G + tl.arange(0, BLOCK_G)
    cols = tl.arange(0, BLOCK_N)
    in_g = groups < G
    if bounds_ptr is None:
        width = BLOCK_N if FULL else n
        return groups, groups * width, cols, in_g, in_g[:, None] & (cols < width)[None, :]
    else:
        first, count = span(bounds_ptr, tl.minimum(groups, G - 1), n)
        return groups, first, cols, in_g, in_g[:, None] & (cols[None, :] < count[:, None])


@triton.jit
def solve(scores, cost, start, keep, temperature, inv_temperature):
    """Solve for the (BLOCK_G,) fp64 thresholds of (BLOCK_G, BLOCK_N) scores, -inf where there are none, and costs.

    start: where to begin; ignored outside of the bracket. keep: one for all, or (BLOCK_G,).
    """
    pinned = tl.abs(scores) == INF
    low, high = bracket(
        tl.min(tl.where(pinned, INF, scores), 1).to(tl.float64),
        tl.max(tl.where(pinned, -INF, scores), 1).to(tl.float64),
        tl.sum(free_cost(scores, cost), 1), tl.sum(pinned_cost(scores, cost), 1), keep, temperature)
    threshold = 0.5 * (low + high)
    threshold = tl.where((start > low) & (start < high), start, threshold)
    move = high - low
    turn = 0
    while (tl.max((low < high).to(tl.int32), 0) > 0) & (turn < STEPS):
        lead, rest = split(threshold)
        total, slope = mask_sums(scores, cost, lead[:, None], rest[:, None], inv_temperature, 1)
        excess = total - keep
        step = tl.where(low < high, newton_step(excess, slope, temperature), 0.0)
        low = tl.where(excess > 0, threshold, low)
        high = tl.where(excess > 0, high, threshold)
        newton = threshold + step
        done = tl.abs(step) <= NEAR * temperature
        trusted = (newton > low) & (newton < high) & (tl.abs(step) <= 0.5 * move) & (turn < NEWTON)
        following = tl.where(done | trusted, newton, 0.5 * (low + high))
        move = tl.abs(following - threshold)
        threshold = following
        low = tl.where(done, threshold, low)
        high = tl.where(done, threshold, high)
        turn += 1
    return threshold


@triton.jit
def soft_topk_small_fwd_kernel(
    # tensors; cost, start and bounds may be None
    scores_ptr, keep_ptr, temperature_ptr, cost_ptr, start_ptr, bounds_ptr, mask_ptr, threshold_ptr,
    # sizes
    G, n,
    # strides
    stride_kg, stride_cg,
    # compile-time
    FULL: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr,
):
    groups, first, cols, in_g, inside = places(bounds_ptr, G, n, FULL, BLOCK_G, BLOCK_N)
    offsets = first[:, None] + cols[None, :]
    scores = tl.load(scores_ptr + offsets, mask=inside, other=-INF)                         # (BLOCK_G, BLOCK_N)
    cost = load_cost(cost_ptr, bounds_ptr, first, groups, cols, inside, stride_cg)          # (BLOCK_G, BLOCK_N)
    keep = tl.load(keep_ptr + groups * stride_kg, mask=in_g, other=0.0)                     # (BLOCK_G,)
    temperature = tl.load(temperature_ptr)
    inv_temperature = (1.0 / temperature).to(tl.float32)

    start = tl.full((BLOCK_G,), INF, tl.float64)
    if start_ptr is not None:
        start = tl.load(start_ptr + groups, mask=in_g, other=0.0)
    threshold = solve(scores, cost, start, keep, temperature, inv_temperature)

    lead, rest = split(threshold)
    tl.store(mask_ptr + offsets, soft_mask(scores, lead[:, None], rest[:, None], inv_temperature), mask=inside)
    tl.store(threshold_ptr + groups, threshold, mask=in_g)


@triton.jit
def soft_topk_small_bwd_kernel(
    # tensors; cost, bounds and dthreshold may be None
    dmask_ptr, dthreshold_ptr, mask_ptr, temperature_ptr, cost_ptr, bounds_ptr, dscores_ptr,
    # sizes
    G, n,
    # strides
    stride_cg,
    # compile-time
    UNDERFLOW: tl.constexpr, FULL: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr,
):
    groups, first, cols, in_g, inside = places(bounds_ptr, G, n, FULL, BLOCK_G, BLOCK_N)
    offsets = first[:, None] + cols[None, :]
    mask = tl.load(mask_ptr + offsets, mask=inside, other=0.0)                              # (BLOCK_G, BLOCK_N)
    dmask = tl.load(dmask_ptr + offsets, mask=inside, other=0.0)                            # (BLOCK_G, BLOCK_N)
    cost = load_cost(cost_ptr, bounds_ptr, first, groups, cols, inside, stride_cg)          # (BLOCK_G, BLOCK_N)
    temperature = tl.load(temperature_ptr)

    v = mask * (1.0 - mask)
    slope = tl.sum(cost * v, 1)
    push = tl.sum(v * dmask, 1)
    if dthreshold_ptr is not None:
        push -= (temperature * tl.load(dthreshold_ptr + groups, mask=in_g, other=0.0)).to(tl.float32)
    dscores = v * (1.0 / temperature).to(tl.float32) * (dmask - cost * (push / slope)[:, None])
    tl.store(dscores_ptr + offsets, tl.where((slope < UNDERFLOW)[:, None], 0.0, dscores), mask=inside)
