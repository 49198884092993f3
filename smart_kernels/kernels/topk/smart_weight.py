"""y = weight * mask, where the mask is the soft (or hard) top-KEEP of every GROUP scores in a row: one pass each way.

    row of C = 6 weights, GROUP = 4    w w w w | w w . .        a group is solved in registers, as in small.py; the
                                       s s s s | s s -inf -inf  mask is never stored, only its threshold
"""

import triton
import triton.language as tl

from .small import solve
from .soft_topk import INF, soft_mask, split


@triton.jit
def places(groups, G, C, per_row, GROUP: tl.constexpr, BLOCK: tl.constexpr, FULL: tl.constexpr):
    """Return the offsets of the (len(groups), BLOCK) weights of some groups, and which exist."""
    offs = tl.arange(0, BLOCK)
    if FULL:  # groups lie next to each other
        return groups[:, None] * GROUP + offs[None, :], (groups < G)[:, None] & (offs < BLOCK)[None, :]
    cols = (groups % per_row * GROUP)[:, None] + offs[None, :]
    return (groups // per_row * C)[:, None] + cols, (groups < G)[:, None] & (offs < GROUP)[None, :] & (cols < C)


@triton.jit
def best(scores, KEEP: tl.constexpr, BLOCK: tl.constexpr):
    """Return 1 for the KEEP largest of each row, ties by place, else 0."""
    offs = tl.arange(0, BLOCK)
    mine = scores[:, :, None]
    other = scores[:, None, :]
    ahead = (other > mine) | ((other == mine) & (offs[None, None, :] < offs[None, :, None]))
    return (tl.sum(ahead.to(tl.int32), 2) < KEEP).to(tl.float32)


@triton.jit
def smart_weight_kernel(
    # tensors
    weight_ptr, scores_ptr, temperature_ptr, y_ptr, threshold_ptr,
    # sizes
    G, C, per_row,
    # scalars
    eps,
    # compile-time
    KEEP: tl.constexpr, GROUP: tl.constexpr, HARD: tl.constexpr,
    FULL: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK: tl.constexpr,
):
    groups = tl.program_id(0).to(tl.int64) * BLOCK_G + tl.arange(0, BLOCK_G)
    offsets, inside = places(groups, G, C, per_row, GROUP, BLOCK, FULL)
    scores = tl.load(scores_ptr + offsets, mask=inside, other=-INF)           # (BLOCK_G, BLOCK)
    weight = tl.load(weight_ptr + offsets, mask=inside, other=0.0)            # (BLOCK_G, BLOCK)

    temperature = tl.load(temperature_ptr)
    inv_temperature = (1.0 / temperature).to(tl.float32)
    keep = tl.full((), KEEP, tl.float64)
    start = tl.full((BLOCK_G,), INF, tl.float64)
    threshold = solve(scores, inside.to(tl.float32), start, keep, temperature, inv_temperature)
    if HARD:
        mask = best(scores, KEEP, BLOCK)
    else:
        lead, rest = split(threshold)
        mask = soft_mask(scores, lead[:, None], rest[:, None], inv_temperature)
        mask = tl.where(mask <= eps, 0.0, mask)
    tl.store(y_ptr + offsets, (weight.to(tl.float32) * mask).to(y_ptr.dtype.element_ty), mask=inside)
    tl.store(threshold_ptr + groups, threshold, mask=groups < G)


@triton.jit
def smart_weight_bwd_kernel(
    # tensors
    dy_ptr, weight_ptr, scores_ptr, threshold_ptr, temperature_ptr, dweight_ptr, dscores_ptr,
    # sizes
    G, C, per_row,
    # scalars
    eps,
    # compile-time
    UNDERFLOW: tl.constexpr, KEEP: tl.constexpr, GROUP: tl.constexpr, HARD: tl.constexpr,
    FULL: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK: tl.constexpr,
):
    groups = tl.program_id(0).to(tl.int64) * BLOCK_G + tl.arange(0, BLOCK_G)
    offsets, inside = places(groups, G, C, per_row, GROUP, BLOCK, FULL)
    scores = tl.load(scores_ptr + offsets, mask=inside, other=-INF)           # (BLOCK_G, BLOCK)
    weight = tl.load(weight_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    lead, rest = split(tl.load(threshold_ptr + groups, mask=groups < G, other=0.0))

    inv_temperature = (1.0 / tl.load(temperature_ptr)).to(tl.float32)
    soft = soft_mask(scores, lead[:, None], rest[:, None], inv_temperature)
    dmask = weight * dy
    if HARD:
        mask = best(scores, KEEP, BLOCK)
    else:
        mask = tl.where(soft <= eps, 0.0, soft)
        dmask = tl.where(soft > eps, dmask, 0.0)
    v = soft * (1.0 - soft)
    slope = tl.sum(v, 1)
    push = tl.sum(v * dmask, 1) / slope
    dscores = tl.where((slope < UNDERFLOW)[:, None], 0.0, v * inv_temperature * (dmask - push[:, None]))
    tl.store(dweight_ptr + offsets, (dy * mask).to(dweight_ptr.dtype.element_ty), mask=inside)
    tl.store(dscores_ptr + offsets, dscores, mask=inside)
