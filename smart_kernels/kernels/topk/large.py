"""Soft top-k of large groups: many programs per group, one launch per pass, no host in between.

    range            pass 0 (4)     pass 1 (4)      pass 2 (16)      finish           mask
    min, max, cost   |..N|..|..|    |..|N.|..|..|   |16 parts     |  Newton, one      sigmoid
         \\__ partials __/\\_ partials _/\\__ partials __/  program a group

A pass sums over its part of the group at CANDIDATES thresholds: Newton's, and those that cut the bracket in CANDIDATES
equal parts. The next launch starts by adding up the partials, every program for itself and in the same order, and goes
on with the part that holds the root. Once a group is done its later passes return at once, so the number of launches
is fixed while the work follows the data: with a good start two passes of 4 candidates work. What they leave open, the
first solve or scores that span many temperatures, one program per group solves to the end.
"""

import triton
import triton.language as tl

from .small import NEWTON, STEPS
from .soft_topk import INF, NEAR, bracket, free_cost, mask_sums, newton_step, pinned_cost, soft_mask, span, split

SLOTS = tl.constexpr(16)  # candidates a row of partials has room for: SLOTS sums, then SLOTS slopes, fp64
STATE = tl.constexpr(3)  # low, high, Newton's threshold; fp64


@triton.jit
def load_cost(cost_ptr, bounds_ptr, first, group, offsets, inside, stride_cg):
    if cost_ptr is None:
        return inside.to(tl.float32)
    else:
        row = group * stride_cg if bounds_ptr is None else first
        return tl.load(cost_ptr + row + offsets, mask=inside, other=0.0)


@triton.jit
def candidates(low, high, newton, CANDIDATES: tl.constexpr):
    part = tl.arange(0, CANDIDATES)
    return tl.where(part == 0, newton, low + (high - low) * (part.to(tl.float64) / CANDIDATES))


@triton.jit
def first_bracket(partial_ptr, start_ptr, group, programs, keep, temperature, BLOCK_P: tl.constexpr):
    """Add up the partials of the range kernel: low, high and where Newton starts."""
    rows = tl.arange(0, BLOCK_P)
    in_p = rows < programs
    p = partial_ptr + (group * programs + rows) * (2 * SLOTS)
    low, high = bracket(
        tl.min(tl.load(p, mask=in_p, other=INF), 0), tl.max(tl.load(p + 1, mask=in_p, other=-INF), 0),
        tl.sum(tl.load(p + 2, mask=in_p, other=0.0), 0), tl.sum(tl.load(p + 3, mask=in_p, other=0.0), 0),
        keep, temperature)
    newton = 0.5 * (low + high)
    if start_ptr is not None:
        start = tl.load(start_ptr + group)
        newton = tl.where((start > low) & (start < high), start, newton)
    return low, high, newton


@triton.jit
def narrow(state_ptr, partial_ptr, group, programs, keep, temperature, CANDIDATES: tl.constexpr, BLOCK_P: tl.constexpr):
    """Add up the partials of the pass before and keep the part of the bracket with the root."""
    s = state_ptr + group * STATE
    low = tl.load(s)
    high = tl.load(s + 1)
    newton = tl.load(s + 2)
    if low < high:
        rows = tl.arange(0, BLOCK_P)
        in_p = (rows < programs)[:, None]
        p = partial_ptr + (group * programs + rows)[:, None] * (2 * SLOTS) + tl.arange(0, CANDIDATES)[None, :]
        excess = tl.sum(tl.load(p, mask=in_p, other=0.0), 0) - keep       # (CANDIDATES,)
        slope = tl.sum(tl.load(p + SLOTS, mask=in_p, other=0.0), 0)       # (CANDIDATES,)

        points = candidates(low, high, newton, CANDIDATES)
        step = newton_step(excess, slope, temperature)
        shortest = tl.min(tl.abs(step), 0)
        low = tl.maximum(low, tl.max(tl.where(excess > 0, points, -INF), 0))
        high = tl.minimum(high, tl.min(tl.where((excess > 0) | (points <= low), INF, points), 0))
        newton = tl.min(tl.where(tl.abs(step) == shortest, points + step, INF), 0)
        newton = tl.minimum(tl.maximum(newton, low), high)
        if shortest <= NEAR * temperature:
            low = newton
            high = newton
    return low, high, newton


@triton.jit
def sums(scores_ptr, cost_ptr, bounds_ptr, group, n, stride_cg, thresholds, inv_temperature, program, programs,
         CANDIDATES: tl.constexpr, BLOCK: tl.constexpr):
    """Return sum(cost * mask) and sum(cost * mask * (1 - mask)) at some thresholds, of one program's part."""
    first, count = span(bounds_ptr, group, n)
    lead, rest = split(thresholds)                                                    # (CANDIDATES,)
    total = tl.zeros((CANDIDATES,), tl.float64)
    slope = tl.zeros((CANDIDATES,), tl.float64)
    for block in range(program * BLOCK, count, programs * BLOCK):
        offsets = block + tl.arange(0, BLOCK)
        inside = offsets < count
        scores = tl.load(scores_ptr + first + offsets, mask=inside, other=-INF)       # (BLOCK,)
        cost = load_cost(cost_ptr, bounds_ptr, first, group, offsets, inside, stride_cg)
        both = mask_sums(scores[:, None], cost[:, None], lead[None, :], rest[None, :], inv_temperature, 0)
        total += both[0]
        slope += both[1]
    return total, slope


@triton.jit
def soft_topk_range_kernel(
    # tensors; cost and bounds may be None
    scores_ptr, cost_ptr, bounds_ptr, partial_ptr,
    # sizes
    n,
    # strides
    stride_cg,
    # compile-time
    BLOCK: tl.constexpr,
):
    program, programs = tl.program_id(1), tl.num_programs(1)
    group = tl.program_id(0).to(tl.int64)
    first, count = span(bounds_ptr, group, n)

    lowest = tl.full((), INF, tl.float32)
    highest = tl.full((), -INF, tl.float32)
    total = tl.zeros((), tl.float64)
    pinned = tl.zeros((), tl.float64)
    for block in range(program * BLOCK, count, programs * BLOCK):
        offsets = block + tl.arange(0, BLOCK)
        inside = offsets < count
        scores = tl.load(scores_ptr + first + offsets, mask=inside, other=-INF)           # (BLOCK,)
        cost = load_cost(cost_ptr, bounds_ptr, first, group, offsets, inside, stride_cg)  # (BLOCK,)
        infinite = tl.abs(scores) == INF
        lowest = tl.minimum(lowest, tl.min(tl.where(infinite, INF, scores), 0))
        highest = tl.maximum(highest, tl.max(tl.where(infinite, -INF, scores), 0))
        total += tl.sum(free_cost(scores, cost), 0)
        pinned += tl.sum(pinned_cost(scores, cost), 0)

    p = partial_ptr + (group * programs + program) * (2 * SLOTS)
    tl.store(p, lowest.to(tl.float64))
    tl.store(p + 1, highest.to(tl.float64))
    tl.store(p + 2, total)
    tl.store(p + 3, pinned)


@triton.jit(do_not_specialize=["turn"])
def soft_topk_pass_kernel(
    # tensors; cost, start and bounds may be None
    scores_ptr, keep_ptr, temperature_ptr, cost_ptr, start_ptr, bounds_ptr, partial_ptr, state_ptr,
    # sizes
    G, n,
    # strides
    stride_kg, stride_cg,
    # scalars
    turn,
    # compile-time
    BEFORE: tl.constexpr, CANDIDATES: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK: tl.constexpr,
):
    program, programs = tl.program_id(1), tl.num_programs(1)
    group = tl.program_id(0).to(tl.int64)
    keep, temperature = tl.load(keep_ptr + group * stride_kg), tl.load(temperature_ptr)

    # double buffers: other programs may still be reading what the pass before wrote
    partial_size = programs.to(tl.int64) * G * (2 * SLOTS)
    partial_in = partial_ptr + turn % 2 * partial_size
    partial_out = partial_ptr + (turn + 1) % 2 * partial_size
    state_in = state_ptr + turn % 2 * G * STATE
    state_out = state_ptr + (turn + 1) % 2 * G * STATE
    if BEFORE == 0:
        low, high, newton = first_bracket(partial_in, start_ptr, group, programs, keep, temperature, BLOCK_P)
    else:
        low, high, newton = narrow(state_in, partial_in, group, programs, keep, temperature, BEFORE, BLOCK_P)
    if program == 0:
        s = state_out + group * STATE
        tl.store(s, low)
        tl.store(s + 1, high)
        tl.store(s + 2, newton)

    if low < high:
        total, slope = sums(scores_ptr, cost_ptr, bounds_ptr, group, n, stride_cg,
                            candidates(low, high, newton, CANDIDATES), (1.0 / temperature).to(tl.float32),
                            program, programs, CANDIDATES, BLOCK)
        p = partial_out + (group * programs + program) * (2 * SLOTS) + tl.arange(0, CANDIDATES)
        tl.store(p, total)
        tl.store(p + SLOTS, slope)


@triton.jit(do_not_specialize=["turn"])
def soft_topk_finish_kernel(
    # tensors; cost and bounds may be None
    scores_ptr, keep_ptr, temperature_ptr, cost_ptr, bounds_ptr, partial_ptr, state_ptr, threshold_ptr,
    # sizes
    G, n, programs,
    # strides
    stride_kg, stride_cg,
    # scalars
    turn,
    # compile-time
    BEFORE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK: tl.constexpr,
):
    """Solve a group to the end: Newton's steps as in ``solve`` of small groups, none where the passes were enough."""
    group = tl.program_id(0).to(tl.int64)
    keep, temperature = tl.load(keep_ptr + group * stride_kg), tl.load(temperature_ptr)

    partial_in = partial_ptr + turn % 2 * programs.to(tl.int64) * G * (2 * SLOTS)
    state_in = state_ptr + turn % 2 * G * STATE
    low, high, threshold = narrow(state_in, partial_in, group, programs, keep, temperature, BEFORE, BLOCK_P)
    inv_temperature = (1.0 / temperature).to(tl.float32)
    move = high - low
    steps = 0
    while (low < high) & (steps < STEPS):
        point = threshold + tl.zeros((1,), tl.float64)
        total, slope = sums(scores_ptr, cost_ptr, bounds_ptr, group, n, stride_cg, point, inv_temperature, 0, 1,
                            1, BLOCK)
        excess = tl.sum(total, 0) - keep
        step = newton_step(excess, tl.sum(slope, 0), temperature)
        low = tl.where(excess > 0, threshold, low)
        high = tl.where(excess > 0, high, threshold)
        newton = threshold + step
        done = tl.abs(step) <= NEAR * temperature
        trusted = (newton > low) & (newton < high) & (tl.abs(step) <= 0.5 * move) & (steps < NEWTON)
        following = tl.where(done | trusted, newton, 0.5 * (low + high))
        move = tl.abs(following - threshold)
        threshold = following
        low = tl.where(done, threshold, low)
        high = tl.where(done, threshold, high)
        steps += 1
    tl.store(threshold_ptr + group, threshold)


@triton.jit
def soft_topk_mask_kernel(
    # tensors; bounds may be None
    scores_ptr, temperature_ptr, bounds_ptr, threshold_ptr, mask_ptr,
    # sizes
    n,
    # compile-time
    BLOCK: tl.constexpr,
):
    program, programs = tl.program_id(1), tl.num_programs(1)
    group = tl.program_id(0).to(tl.int64)
    first, count = span(bounds_ptr, group, n)
    inv_temperature = (1.0 / tl.load(temperature_ptr)).to(tl.float32)
    lead, rest = split(tl.load(threshold_ptr + group))
    for block in range(program * BLOCK, count, programs * BLOCK):
        offsets = block + tl.arange(0, BLOCK)
        inside = offsets < count
        scores = tl.load(scores_ptr + first + offsets, mask=inside, other=-INF)           # (BLOCK,)
        tl.store(mask_ptr + first + offsets, soft_mask(scores, lead, rest, inv_temperature), mask=inside)


@triton.jit
def soft_topk_bwd_kernel(
    # tensors; dthreshold, cost and bounds may be None
    dmask_ptr, dthreshold_ptr, mask_ptr, temperature_ptr, cost_ptr, bounds_ptr, dscores_ptr,
    # sizes
    n,
    # strides
    stride_cg,
    # compile-time
    UNDERFLOW: tl.constexpr, BLOCK: tl.constexpr,
):
    """Store the gradient of a part of a group; its programs all add up the same sums, in the same order."""
    program, programs = tl.program_id(1), tl.num_programs(1)
    group = tl.program_id(0).to(tl.int64)
    first, count = span(bounds_ptr, group, n)
    temperature = tl.load(temperature_ptr)

    slopes = tl.zeros((BLOCK,), tl.float32)
    pushes = tl.zeros((BLOCK,), tl.float32)
    for block in range(0, count, BLOCK):
        offsets = block + tl.arange(0, BLOCK)
        inside = offsets < count
        mask = tl.load(mask_ptr + first + offsets, mask=inside, other=0.0)                # (BLOCK,)
        cost = load_cost(cost_ptr, bounds_ptr, first, group, offsets, inside, stride_cg)  # (BLOCK,)
        v = mask * (1.0 - mask)
        slopes += cost * v
        pushes += v * tl.load(dmask_ptr + first + offsets, mask=inside, other=0.0)
    slope = tl.sum(slopes.to(tl.float64), 0)
    push = tl.sum(pushes.to(tl.float64), 0)
    if dthreshold_ptr is not None:
        push -= temperature * tl.load(dthreshold_ptr + group)
    share = (push / slope).to(tl.float32)
    inv_temperature = (1.0 / temperature).to(tl.float32)

    for block in range(program * BLOCK, count, programs * BLOCK):
        offsets = block + tl.arange(0, BLOCK)
        inside = offsets < count
        mask = tl.load(mask_ptr + first + offsets, mask=inside, other=0.0)                # (BLOCK,)
        dmask = tl.load(dmask_ptr + first + offsets, mask=inside, other=0.0)              # (BLOCK,)
        cost = load_cost(cost_ptr, bounds_ptr, first, group, offsets, inside, stride_cg)  # (BLOCK,)
        dscores = mask * (1.0 - mask) * inv_temperature * (dmask - cost * share)
        tl.store(dscores_ptr + first + offsets, tl.where(slope < UNDERFLOW, 0.0, dscores), mask=inside)
