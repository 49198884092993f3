"""Soft top-k of large groups: many programs per group, one launch per pass, no host in between.

    range            pass 0 (4)     pass 1 (4)      pass 2 (16)      ...    pass 11 (16)     mask
    min, max, cost   |..N|..|..|    |..|N.|..|..|   |16 parts     |         |           |    sigmoid
         \\__ partials __/\\_ partials _/

A pass sums over its part of the group at CANDIDATES thresholds: Newton's, and those that cut the bracket in CANDIDATES
equal parts. The next launch starts by adding up the partials, every program for itself and in the same order, and goes
on with the part that holds the root. Once a group is done its later passes return at once, so the number of launches
is fixed while the work follows the data: with a good start two passes of 4 candidates work.

Guarantee, whatever the data: 2 passes of 2 bits and 10 of 4 narrow the bracket by 2^-44. Within temperature / 16 of the
root two passes of Newton are enough, so scores may span 2^32 temperatures: 4000 at 1e-6, 4e6 at 1e-3.
"""

import triton
import triton.language as tl

from .soft_topk import INF, NEAR, bracket, free_cost, mask_sums, newton_step, pinned_cost, soft_mask, split

SLOTS = tl.constexpr(16)  # candidates a row of partials has room for: SLOTS sums, then SLOTS slopes, fp64
STATE = tl.constexpr(3)  # low, high, Newton's threshold; fp64


@triton.jit
def load_cost(cost_ptr, group, offsets, inside, stride_cg):
    if cost_ptr is not None:
        return tl.load(cost_ptr + group * stride_cg + offsets, mask=inside, other=0.0)
    return inside.to(tl.float32)


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
def soft_topk_range_kernel(
    # tensors
    scores_ptr, cost_ptr, partial_ptr,
    # sizes
    n,
    # strides
    stride_cg,
    # compile-time
    BLOCK: tl.constexpr,
):
    program, programs = tl.program_id(1), tl.num_programs(1)
    group = tl.program_id(0).to(tl.int64)

    lowest = tl.full((), INF, tl.float32)
    highest = tl.full((), -INF, tl.float32)
    total = tl.zeros((), tl.float64)
    pinned = tl.zeros((), tl.float64)
    for first in range(program * BLOCK, n, programs * BLOCK):
        offsets = first + tl.arange(0, BLOCK)
        inside = offsets < n
        scores = tl.load(scores_ptr + group * n + offsets, mask=inside, other=-INF)  # (BLOCK,)
        cost = load_cost(cost_ptr, group, offsets, inside, stride_cg)                # (BLOCK,)
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
    # tensors
    scores_ptr, cost_ptr, start_ptr, partial_ptr, state_ptr,
    # sizes
    G, n,
    # strides
    stride_cg,
    # scalars
    keep: tl.float64, temperature: tl.float64, inv_temperature, turn,
    # compile-time
    BEFORE: tl.constexpr, CANDIDATES: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK: tl.constexpr,
):
    program, programs = tl.program_id(1), tl.num_programs(1)
    group = tl.program_id(0).to(tl.int64)

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
        lead, rest = split(candidates(low, high, newton, CANDIDATES))                  # (CANDIDATES,)
        total = tl.zeros((CANDIDATES,), tl.float64)
        slope = tl.zeros((CANDIDATES,), tl.float64)
        for first in range(program * BLOCK, n, programs * BLOCK):
            offsets = first + tl.arange(0, BLOCK)
            inside = offsets < n
            scores = tl.load(scores_ptr + group * n + offsets, mask=inside, other=-INF)  # (BLOCK,)
            cost = load_cost(cost_ptr, group, offsets, inside, stride_cg)                # (BLOCK,)
            sums = mask_sums(scores[:, None], cost[:, None], lead[None, :], rest[None, :], inv_temperature, 0)
            total += sums[0]
            slope += sums[1]
        p = partial_out + (group * programs + program) * (2 * SLOTS) + tl.arange(0, CANDIDATES)
        tl.store(p, total)
        tl.store(p + SLOTS, slope)


@triton.jit(do_not_specialize=["turn"])
def soft_topk_mask_kernel(
    # tensors
    scores_ptr, partial_ptr, state_ptr, mask_ptr, threshold_ptr,
    # sizes
    G, n,
    # scalars
    keep: tl.float64, temperature: tl.float64, inv_temperature, turn,
    # compile-time
    BEFORE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK: tl.constexpr,
):
    program, programs = tl.program_id(1), tl.num_programs(1)
    group = tl.program_id(0).to(tl.int64)

    partial_in = partial_ptr + turn % 2 * programs.to(tl.int64) * G * (2 * SLOTS)
    state_in = state_ptr + turn % 2 * G * STATE
    threshold = narrow(state_in, partial_in, group, programs, keep, temperature, BEFORE, BLOCK_P)[2]
    if program == 0:
        tl.store(threshold_ptr + group, threshold)

    lead, rest = split(threshold)
    for first in range(program * BLOCK, n, programs * BLOCK):
        offsets = first + tl.arange(0, BLOCK)
        inside = offsets < n
        scores = tl.load(scores_ptr + group * n + offsets, mask=inside, other=-INF)      # (BLOCK,)
        tl.store(mask_ptr + group * n + offsets, soft_mask(scores, lead, rest, inv_temperature), mask=inside)
