"""Which tiles of a weight are kept."""

import torch
from torch import Tensor

from smart_kernels.patterns import Pattern, WeightShape, allowed_weights, check_pattern, keep_best


def magnitude_mask(weight: Tensor, pattern: Pattern, sparsity: float) -> Tensor:
    """Return (rows, cols) 0/1 per score: 1 for the tiles of largest mean magnitude of an (N, taps, C) weight."""
    check_pattern(pattern)
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    return _best(pattern.importance(weight), WeightShape(*weight.shape), pattern, 1 - sparsity)


def _best(scores: Tensor, shape: WeightShape, pattern: Pattern, density: float) -> Tensor:
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], got {density}")
    if pattern.sparsity is None:
        budget = allowed_weights(1 - density, shape.numel)
        return keep_best([scores], [pattern.cost(shape)], budget)[0].view_as(scores)
    if abs(pattern.sparsity - (1 - density)) > 1e-6:
        raise ValueError(f"{pattern} implies a density of {1 - pattern.sparsity:g}, got {density:g}")
    return pattern.hard_mask(scores, shape)


def random_mask(shape: WeightShape, pattern: Pattern, density: float) -> Tensor:
    """Return (rows, cols) 0/1 per score: 1 for tiles at random, as many as the density has room for, at least one.

    Raises:
        ValueError: ``density`` outside (0, 1], or another than the pattern implies.
    """
    least = 0 if pattern.local else pattern.cost(shape).max().item() / shape.numel
    density = max(density, least) if density > 0 else density
    return _best(torch.rand(pattern.scores_shape(shape)), shape, pattern, density)


def random_weight(
    shape: WeightShape, pattern: Pattern, density: float, bias: bool, device, dtype
) -> tuple[Tensor, Tensor | None, Pattern, Tensor]:
    """Draw weight, bias, pattern and mask as ``nn.Linear`` draws them, for the inputs that are left."""
    check_pattern(pattern)
    cost = pattern.cost(shape)
    keep = random_mask(shape, pattern, density)
    bound = (shape.N / (keep * cost).sum().item()) ** 0.5
    weight = torch.empty(shape, device=device, dtype=dtype).uniform_(-bound, bound)
    return weight, torch.empty_like(weight[:, 0, 0]).uniform_(-bound, bound) if bias else None, pattern, keep
