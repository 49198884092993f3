"""Which two of every four weights stay, and the definition of ``semi_structured_prune``."""

import functools
from itertools import combinations, product

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.reference.common.nm import compress

PAIRS = tuple(combinations(range(4), 2))
CHUNK = 1 << 16  # blocks of 4x4 compared with all masks at a time
PINNED = 1e6  # what an infinite score counts


def semi_structured_prune(weight: Tensor, scores: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return values and indices of (N, K): the two of largest score in every four, ties by place."""
    K = weight.shape[1]
    scores = importance(weight, scores)
    groups = F.pad(scores, (0, -K % 4), value=-torch.inf).unflatten(1, (-1, 4))
    order = groups.argsort(dim=-1, descending=True, stable=True)[..., :2]
    keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order, True)
    return compress(weight, keep.flatten(1)[:, :K], 2, 4)


def semi_structured_prune_both_ways(weight: Tensor, scores: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return values and indices of W (N, K) and of W.T.

    In each 4x4 block it is the best mask with two in every row and column.
    """
    N, K = weight.shape
    scores = importance(weight, scores).clamp(-PINNED, PINNED)
    blocks = scores.view(N // 4, 4, K // 4, 4).permute(0, 2, 1, 3).reshape(-1, 16)
    keep = transposable_masks(weight.device)[best_masks(blocks)].bool()
    keep = keep.view(N // 4, K // 4, 4, 4).permute(0, 2, 1, 3).reshape(N, K)
    return *compress(weight, keep, 2, 4), *compress(weight.T, keep.T, 2, 4)


def importance(weight: Tensor, scores: Tensor | None) -> Tensor:
    """Return the scores, or the magnitudes; NaN is infinite."""
    scores = weight.abs() if scores is None else scores
    scores = scores if scores.dtype == torch.float64 else scores.float()
    return torch.where(scores.isnan(), torch.inf, scores)


@functools.cache
def transposable_masks(device: torch.device) -> Tensor:
    """Return all 4x4 masks with two in every row and column, (90, 16) float32.

    They are brought to the device once: a CUDA graph cannot hold a copy from the host.
    """
    rows = [torch.zeros(4).index_fill_(0, torch.tensor(pair), 1) for pair in PAIRS]
    masks = torch.stack([torch.stack(mask) for mask in product(rows, repeat=4)])
    return masks[(masks.sum(1) == 2).all(1)].flatten(1).to(device)


def best_masks(blocks: Tensor) -> Tensor:
    """Return which of the masks keeps most of (B, 16) finite scores: (B,), the first of equals."""
    masks = transposable_masks(blocks.device).double().T
    return torch.cat([(part.double() @ masks).argmax(1) for part in blocks.split(CHUNK)])
