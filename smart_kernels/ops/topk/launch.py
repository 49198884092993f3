"""Soft top-k on a GPU: which kernel, how many programs. fp32 (G, n) in, no host synchronisation."""

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.topk.large import soft_topk_mask_kernel, soft_topk_pass_kernel, soft_topk_range_kernel
from smart_kernels.kernels.topk.small import soft_topk_small_bwd_kernel, soft_topk_small_fwd_kernel
from smart_kernels.reference.topk.soft_topk import UNDERFLOW

SMALL = 4096  # the largest group that one program solves in registers
TILE = 8192  # scores times candidates at a time in a program of a large group
PROGRAMS = 256  # most per large group: each adds up the partials of all
CANDIDATES = (4, 4, *[16] * 10)  # thresholds tried per pass; see kernels/topk/large.py for the guarantee


def launch_small(
    scores: Tensor, keep: float, temperature: float, cost: Tensor | None, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    G, n = scores.shape
    mask = torch.empty_like(scores)
    threshold = scores.new_empty(G, dtype=torch.float64)
    cost, stride_cg = _rows(cost)
    grid, config = _small_config(G, n)
    soft_topk_small_fwd_kernel[grid](
        scores, cost, start, mask, threshold, G, n, stride_cg, keep, temperature, 1 / temperature, **config
    )
    return mask, threshold


def launch_small_backward(
    dmask: Tensor, dthreshold: Tensor, mask: Tensor, cost: Tensor | None, temperature: float
) -> Tensor:
    dscores = torch.empty_like(mask)
    cost, stride_cg = _rows(cost)
    grid, config = _small_config(*mask.shape)
    tensors = (dmask.contiguous(), dthreshold.contiguous(), mask, cost, dscores)
    soft_topk_small_bwd_kernel[grid](
        *tensors, *mask.shape, stride_cg, temperature, 1 / temperature, UNDERFLOW=UNDERFLOW, **config
    )
    return dscores


def launch_large(
    scores: Tensor, keep: float, temperature: float, cost: Tensor | None, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    G, n = scores.shape
    mask = torch.empty_like(scores)
    threshold = scores.new_empty(G, dtype=torch.float64)
    programs = min(triton.cdiv(n, TILE // max(CANDIDATES)), PROGRAMS, triton.cdiv(8 * PROGRAMS, G))
    grid = (G, programs)
    partial = scores.new_empty(2, G, programs, 2, max(CANDIDATES), dtype=torch.float64)
    state = scores.new_empty(2, G, 3, dtype=torch.float64)
    cost, stride_cg = _rows(cost)
    target = (keep, temperature, 1 / temperature)
    config = {"BLOCK_P": triton.next_power_of_2(programs), "num_warps": 8}
    soft_topk_range_kernel[grid](scores, cost, partial, n, stride_cg, BLOCK=TILE, num_warps=8)
    before = 0
    for turn, now in enumerate(CANDIDATES):
        args = (scores, cost, start, partial, state, G, n, stride_cg, *target, turn)
        soft_topk_pass_kernel[grid](*args, BEFORE=before, CANDIDATES=now, BLOCK=TILE // now, **config)
        before = now
    args = (scores, partial, state, mask, threshold, G, n, *target, len(CANDIDATES))
    soft_topk_mask_kernel[grid](*args, BEFORE=before, BLOCK=TILE, **config)
    return mask, threshold


def _small_config(G: int, n: int) -> tuple[tuple[int], dict[str, int]]:
    block_n = triton.next_power_of_2(n)
    block_g = max(1, 1024 // block_n)
    config = {"FULL": n == block_n, "BLOCK_G": block_g, "BLOCK_N": block_n, "num_warps": 4 if block_n <= 2048 else 8}
    return (triton.cdiv(G, block_g),), config


def _rows(cost: Tensor | None) -> tuple[Tensor | None, int]:
    """Return contiguous cost and the distance of its rows; 0 where all groups share one."""
    if cost is None:
        return None, 0
    return cost.contiguous(), cost.shape[1] if cost.shape[0] > 1 else 0
