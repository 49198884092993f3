"""How many weights a sparsity leaves, and who is kept: the hard mask alone defines the budget."""

import math
from fractions import Fraction

import torch
from torch import Tensor


def allowed_weights(sparsity: float, weights: int) -> int:
    """Return ``floor((1 - sparsity) * weights)``, exact for the decimal or simple fraction that ``sparsity`` means."""
    return math.floor((1 - Fraction(sparsity).limit_denominator(10**9)) * weights)


def keep_best(
    scores: list[Tensor], costs: list[Tensor], budget: int, owners: list[list[Tensor | None]] | None = None
) -> list[Tensor]:
    """Keep each layer's best tile, then others by descending score, ties by index, as far as the budget goes.

    Args:
        scores: one tensor per layer, any shape, without NaN.
        costs: int64 weights per score, of the same shapes.
        owners: for each score tensor the layers that share it, each as the indices of its scores (-1: none),
            None for all.
        budget: weights to keep at most.

    Returns:
        float32 masks of 0 and 1 of the same shapes: the longest prefix of that order that costs at most ``budget``.

    Raises:
        ValueError: the best tiles alone cost more than ``budget``.
    """
    sizes = [score.numel() for score in scores]
    flat = torch.cat([score.detach().flatten() for score in scores])
    cost = torch.cat([cost.flatten() for cost in costs]).to(flat.device)
    best = torch.zeros_like(flat, dtype=torch.bool)
    owners = [[None]] * len(scores) if owners is None else owners
    for part, own, layers in zip(best.split(sizes), flat.split(sizes), owners, strict=True):
        for index in layers:
            places = torch.arange(len(own), device=own.device) if index is None else index[index >= 0]
            part[places[own[places].argmax()]] = True
    order = flat.argsort(descending=True, stable=True)
    order = torch.cat([order[best[order]], order[~best[order]]])
    spent = cost[order].cumsum(0)
    floor = int(spent[int(best.sum()) - 1])
    if floor > budget:
        raise ValueError(f"the budget must pay for the best tile of each layer, {floor} weights, got {budget}")
    mask = torch.zeros_like(flat, dtype=torch.float32)
    mask[order[spent <= budget]] = 1
    return [part.view_as(score) for part, score in zip(mask.split(sizes), scores, strict=True)]


def keep_n(groups: Tensor, n: int) -> Tensor:
    """Keep the ``n`` best of each row of ``groups`` (G, m), ties by index: a float32 mask of 0 and 1."""
    order = groups.detach().argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(groups, dtype=torch.float32).scatter_(1, order[:, :n], 1)
