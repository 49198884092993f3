"""Definition of ``smart_weight``: a weight times its soft n:m mask."""

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.reference.common.soft_mask import soft_mask

from .soft_topk import UNDERFLOW, soft_topk


def smart_weight(
    weight: Tensor, scores: Tensor, temperature: Tensor, n: int, m: int, eps: float, hard: bool
) -> tuple[Tensor, Tensor]:
    """Return (R, C) masked weight and (R, ceil(C / m)) float64 threshold of each group."""
    groups = _grouped(scores, m, -torch.inf)
    threshold = soft_topk(groups.flatten(0, 1), n, temperature)[1].view(groups.shape[:2])
    mask = _forward_mask(groups, threshold, n, temperature, eps, hard).flatten(1)[:, : scores.shape[1]]
    return (weight * mask).to(weight.dtype), threshold


def smart_weight_backward(
    dy: Tensor,
    weight: Tensor,
    scores: Tensor,
    threshold: Tensor,
    temperature: Tensor,
    n: int,
    m: int,
    eps: float,
    hard: bool,
) -> tuple[Tensor, Tensor]:
    """Return dweight = mask dy, and dscores of the soft mask: v / temperature (dmask - sum(v dmask) / sum(v)).

    dmask = weight dy where the mask is above eps (everywhere if hard), v = mask (1 - mask).
    """
    C = scores.shape[1]
    groups = _grouped(scores, m, -torch.inf)
    soft = soft_mask(groups, threshold[..., None], temperature)
    dmask = _grouped(weight.to(soft.dtype) * dy, m, 0)
    dmask = dmask if hard else torch.where(soft > eps, dmask, 0)
    v = soft * (1 - soft)
    slope = v.sum(-1, keepdim=True)
    dscores = torch.where(slope < UNDERFLOW, 0, v / temperature * (dmask - (v * dmask).sum(-1, keepdim=True) / slope))
    mask = _forward_mask(groups, threshold, n, temperature, eps, hard).flatten(1)[:, :C]
    return (dy * mask).to(weight.dtype), dscores.flatten(1)[:, :C].contiguous()


def _forward_mask(groups: Tensor, threshold: Tensor, n: int, temperature: Tensor, eps: float, hard: bool) -> Tensor:
    if hard:
        order = groups.argsort(dim=-1, descending=True, stable=True)
        return torch.zeros_like(groups).scatter_(-1, order[..., :n], 1)
    soft = soft_mask(groups, threshold[..., None], temperature)
    return torch.where(soft <= eps, 0, soft)


def _grouped(matrix: Tensor, m: int, fill: float) -> Tensor:
    """Split (R, C) into groups (R, ceil(C / m), m)."""
    count = -(-matrix.shape[1] // m)
    return F.pad(matrix, (0, count * m - matrix.shape[1]), value=fill).unflatten(1, (count, m))
