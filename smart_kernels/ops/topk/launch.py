"""Soft top-k on a GPU: which kernels, how many programs. No host synchronisation; launches follow from the sizes."""

import functools
import itertools
from collections.abc import Callable

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.topk.large import (
    soft_topk_bwd_kernel,
    soft_topk_finish_kernel,
    soft_topk_mask_kernel,
    soft_topk_pass_kernel,
    soft_topk_range_kernel,
)
from smart_kernels.kernels.topk.small import soft_topk_small_bwd_kernel, soft_topk_small_fwd_kernel
from smart_kernels.ops.common.launch import NOTHING, TENSOR, Launch, slot
from smart_kernels.ops.common.plan import Planned
from smart_kernels.reference.topk.soft_topk import UNDERFLOW

SMALL = 4096  # the largest group that one program solves in registers
TILE = 4096  # scores times candidates at a time in a program of a large group; half beside partials of 16
PROGRAMS = 256  # most per large group: each adds up the partials of all
CANDIDATES = (4, 4, 16)  # thresholds tried per pass before one program finishes
BACKWARD = 2048  # scores at a time in a program of the backward
Sizes = tuple[int, ...]


@Planned
def forward(scores, keep, temperature, cost, start, sizes: Sizes) -> Callable:
    """Plan mask and threshold of contiguous fp32 scores (G, n), or of groups of these sizes, one behind the other."""
    G, n, bounds = _groups(scores, sizes)
    solve = _small if n <= SMALL else _large
    launches = solve(scores, keep, cost, start, G, n, slot(bounds))
    new_threshold = functools.partial(torch.empty, G, dtype=torch.float64, device=scores.device)

    def run(*tensors):
        mask = torch.empty_like(tensors[0])
        threshold = new_threshold()
        launches(*tensors, bounds, mask, threshold)
        return mask, threshold

    return run


@Planned
def backward(dmask, dthreshold, mask, temperature, cost, sizes: Sizes) -> Callable:
    """Plan the gradient of the scores, by one launch; ``dthreshold`` may be ``NOTHING``."""
    G, n, bounds = _groups(mask, sizes)
    tensors = TENSOR, slot(dthreshold), TENSOR, TENSOR, slot(cost), slot(bounds), TENSOR
    if n <= SMALL:
        grid, config = _small_config(G, n, bounds is not NOTHING)
        launch = Launch(
            soft_topk_small_bwd_kernel, grid, *tensors, G, n, _row_stride(cost), UNDERFLOW=UNDERFLOW, **config
        )
    else:
        grid = (G, min(triton.cdiv(n, BACKWARD), triton.cdiv(PROGRAMS, 8 * G)))
        launch = Launch(
            soft_topk_bwd_kernel, grid, *tensors, n, _row_stride(cost),
            UNDERFLOW=UNDERFLOW, BLOCK=BACKWARD, num_warps=8,
        )  # fmt: skip

    def run(*tensors):
        dscores = torch.empty_like(tensors[2])
        launch(*tensors, bounds, dscores)
        return dscores

    return run


def _small(scores, keep, cost, start, G: int, n: int, bounds: object) -> Callable:
    grid, config = _small_config(G, n, bounds is TENSOR)
    return Launch(
        soft_topk_small_fwd_kernel, grid,
        TENSOR, TENSOR, TENSOR, slot(cost), slot(start), bounds, TENSOR, TENSOR,
        G, n,
        _keep_stride(keep), _row_stride(cost),
        **config,
    )  # fmt: skip


def _large(scores, keep, cost, start, G: int, n: int, bounds: object) -> Callable:
    programs = min(triton.cdiv(n, 2 * TILE // max(CANDIDATES)), PROGRAMS, triton.cdiv(8 * PROGRAMS, G))
    span, *passes, finish = _solving(keep, cost, start, G, n, bounds, programs)
    settings = {"BLOCK": TILE, "num_warps": 8}
    masks = Launch(soft_topk_mask_kernel, (G, programs), TENSOR, TENSOR, bounds, TENSOR, TENSOR, n, **settings)
    new = functools.partial(torch.empty, dtype=torch.float64, device=scores.device)

    def run(scores, keep, temperature, cost, start, bounds, mask, threshold):
        partial = new((2, G, programs, 2, max(CANDIDATES)))
        state = new((2, G, 3))
        span(scores, cost, bounds, partial)
        for one in passes:
            one(scores, keep, temperature, cost, start, bounds, partial, state)
        finish(scores, keep, temperature, cost, bounds, partial, state, threshold)
        masks(scores, temperature, bounds, threshold, mask)

    return run


def _solving(keep, cost, start, G: int, n: int, bounds: object, programs: int) -> list[Launch]:
    """Return the launches up to the threshold: range, passes, finish."""
    grid, block_p = (G, programs), triton.next_power_of_2(programs)
    target, strides = (TENSOR, TENSOR, TENSOR, slot(cost)), (_keep_stride(keep), _row_stride(cost))
    found = [Launch(
        soft_topk_range_kernel, grid, TENSOR, slot(cost), bounds, TENSOR, n, strides[1], BLOCK=TILE, num_warps=8,
    )]  # fmt: skip
    for turn, (before, now) in enumerate(itertools.pairwise((0, *CANDIDATES))):
        found.append(Launch(
            soft_topk_pass_kernel, grid, *target, slot(start), bounds, TENSOR, TENSOR,
            G, n, *strides, turn,
            BEFORE=before, CANDIDATES=now, BLOCK=TILE // now, BLOCK_P=block_p, num_warps=8,
        ))  # fmt: skip
    tile = TILE // (4 if bounds is TENSOR else 2)  # groups in a row of others are not aligned: more registers
    found.append(Launch(
        soft_topk_finish_kernel, (G,), *target, bounds, TENSOR, TENSOR, TENSOR,
        G, n, programs, *strides, len(CANDIDATES),
        BEFORE=CANDIDATES[-1], BLOCK=tile, BLOCK_P=block_p, num_warps=8,
    ))  # fmt: skip
    return found


def _groups(scores: Tensor, sizes: Sizes) -> tuple[int, int, Tensor]:
    """Return how many groups there are, the size of the largest, and where they begin; ``NOTHING``: side by side."""
    if not sizes:
        return *scores.shape, NOTHING
    bounds = torch.tensor([0, *itertools.accumulate(sizes)], device=scores.device)
    return len(sizes), max(sizes), bounds


def _small_config(G: int, n: int, bounded: bool) -> tuple[tuple[int], dict[str, int]]:
    block_n = triton.next_power_of_2(n)
    block_g = max(1, 1024 // block_n)
    full = n == block_n and not bounded
    warps = 4 if block_n <= 2048 else 16 if bounded else 8  # the scores of a group in a row of others come one by one
    config = {"FULL": full, "BLOCK_G": block_g, "BLOCK_N": block_n, "num_warps": warps}
    return (triton.cdiv(G, block_g),), config


def _keep_stride(keep: Tensor) -> int:
    return keep.stride(0) if keep.numel() > 1 else 0


def _row_stride(cost) -> int:
    """Return the distance of the rows of a contiguous cost; 0 where all groups share one, or there is none."""
    return cost.shape[1] if cost is not NOTHING and cost.dim() == 2 and cost.shape[0] > 1 else 0
