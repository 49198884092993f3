"""Which tiles of a weight are kept."""

import torch
from torch import Tensor

from smart_kernels.patterns import Pattern, WeightShape


def magnitude_mask(weight: Tensor, pattern: Pattern, sparsity: float) -> Tensor:
    """(rows, cols) 0/1 per score: the tiles of largest mean magnitude of an (N, taps, C) weight."""
    return _best(pattern.importance(weight), WeightShape(*weight.shape), pattern, 1 - sparsity)


def keep_best(scores: Tensor, cost: Tensor, budget: float) -> Tensor:
    """0/1 like ``scores``: the best ones, in descending order (ties by index), while their cost is within ``budget``.

    Raises:
        ValueError: not even the best one fits.
    """
    order = scores.flatten().argsort(descending=True, stable=True)
    fits = cost.flatten().to(order.device)[order].cumsum(0) <= budget + 1e-6
    if not fits[0]:
        raise ValueError(f"at least one tile must fit into the budget of {budget:g} weights, got tiles of {cost.min()}")
    return torch.zeros_like(scores).view(-1).index_fill_(0, order[fits], 1).view_as(scores)


def _best(scores: Tensor, shape: WeightShape, pattern: Pattern, density: float) -> Tensor:
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], got {density}")
    if pattern.sparsity is None:
        return keep_best(scores, pattern.cost(shape), density * shape.numel)
    if abs(pattern.sparsity - (1 - density)) > 1e-6:
        raise ValueError(f"{pattern} implies a density of {1 - pattern.sparsity:g}, got {density:g}")
    groups = pattern.groups(scores, shape)
    best = groups.topk(pattern.n, dim=1).indices
    return pattern.ungroup(torch.zeros_like(groups).scatter_(1, best, 1), shape)


def random_weight(
    shape: WeightShape, pattern: Pattern, density: float, bias: bool, device, dtype
) -> tuple[Tensor, Tensor | None, Pattern, Tensor]:
    """Weight, bias, pattern and mask; drawn as ``nn.Linear`` draws them, for the inputs that are left."""
    cost = pattern.cost(shape)
    least = 0 if pattern.local else cost.max().item() / shape.numel  # at least one tile
    keep = _best(
        torch.rand(pattern.scores_shape(shape)), shape, pattern, max(density, least) if density > 0 else density
    )
    bound = (shape.N / (keep * cost).sum().item()) ** 0.5
    weight = torch.empty(shape, device=device, dtype=dtype).uniform_(-bound, bound)
    return weight, torch.empty_like(weight[:, 0, 0]).uniform_(-bound, bound) if bias else None, pattern, keep
