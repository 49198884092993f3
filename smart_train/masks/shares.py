"""Budgets of their own for layers, within the budget of their pool."""

from collections.abc import Mapping

import torch

from .pool import Pool


def uniform(pool: Pool) -> dict[str, float]:
    """Return the same density for every layer."""
    return dict.fromkeys(pool.layers, 1 - pool.asked / pool.weights)


def erk(pool: Pool) -> dict[str, float]:
    """Return densities by layer in proportion to ``sum(weight.shape) / prod(weight.shape)``, at most 1.

    Erdos-Renyi-Kernel of Evci et al., "Rigging the Lottery" (ICML 2020, arXiv 1911.11134). Together they keep what the
    pool may.
    """
    weights = {name: int(cost.sum()) for name, cost in pool.costs.items()}
    raw = {name: sum(shape) / shape.numel() for name, shape in _shapes(pool).items()}
    dense: set[str] = set()
    while True:
        left = pool.weights - pool.asked - sum(weights[name] for name in dense)
        scale = left / sum(raw[name] * weights[name] for name in raw.keys() - dense)
        full = {name for name in raw.keys() - dense if scale * raw[name] > 1}
        if not full:
            return {name: 1.0 if name in dense else scale * raw[name] for name in raw}
        dense |= full


def _shapes(pool: Pool) -> dict[str, torch.Size]:
    return {name: layer.raw_weight.shape for name, layer in pool.layers.items()}


@torch.no_grad()
def spread_(pool: Pool, densities: Mapping[str, float]) -> None:
    """Turn scores into ranks within their layer over the tiles that it should keep, best first.

    A budget for all layers then takes from each in proportion to its density, whatever the budget is.
    """
    for name, layer in pool.layers.items():
        scores = layer.scores.flatten()
        order = scores.argsort(descending=True, stable=True)
        ranks = torch.empty_like(scores)
        ranks[order] = torch.arange(len(scores), dtype=scores.dtype, device=scores.device) + 0.5
        layer.scores.copy_((-ranks / (densities[name] * len(scores))).view_as(layer.scores))
