"""Definition of ``smart_linear``: ``masked_linear`` with the soft mask of scores."""

import torch
from torch import Tensor

from smart_kernels.reference.common.soft_mask import soft_mask
from smart_kernels.shapes.tiles import expand, reduce_sum

from .linear import masked_linear, masked_linear_backward


def smart_linear(
    x: Tensor,
    weight: Tensor,
    scores: Tensor,
    threshold: Tensor,
    temperature: Tensor,
    bias: Tensor | None,
    tile_n: int,
    tile_k: int,
    group_n: int,
    group_k: int,
    eps: float,
    dead_grad: bool,
) -> Tensor:
    """Apply ``masked_linear`` with ``mask = soft_mask(scores, threshold of the group, temperature)``."""
    mask = soft_mask(scores, expand(threshold, (group_n, group_k), scores.shape), temperature)
    return masked_linear(x, weight, mask, bias, tile_n, tile_k, eps, dead_grad)


def smart_linear_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    scores: Tensor,
    threshold: Tensor,
    temperature: Tensor,
    tile_n: int,
    tile_k: int,
    group_n: int,
    group_k: int,
    eps: float,
    dead_grad: bool,
    needs_dweight: bool,
    needs_dscores: bool,
    dbias: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return dweight (N, K), dscores (grid), dthreshold (one per group) and dbias (N,), of that dtype."""
    mask = soft_mask(scores, expand(threshold, (group_n, group_k), scores.shape), temperature)
    args = dy, x, weight, mask, tile_n, tile_k, eps
    dweight, dmask, db = masked_linear_backward(*args, dead_grad, needs_dweight, needs_dscores, dbias)
    if not needs_dscores:
        return dweight, scores.new_empty(0), threshold.new_empty(0), db
    dscores = (mask * (1 - mask) * dmask / temperature).to(scores.dtype)
    dthreshold = -reduce_sum(dscores.double(), (group_n, group_k)).to(threshold.dtype)
    return dweight, dscores, dthreshold, db
