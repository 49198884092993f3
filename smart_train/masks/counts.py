"""Count the weights that masks leave in a model."""

from typing import Any

import torch
from torch import Tensor

from smart_kernels import Masked, masked_layers
from smart_kernels.nn import own_weights

from .masked_model import MaskedModel, Masks


@torch.no_grad()
def counts(masked: MaskedModel, masks: Masks, hard: Masks) -> dict[str, Any]:
    """Return what ``masks`` leave and what hardening them to ``hard`` would keep; see ``Pruner.report``."""
    weights = sum(pool.weights for pool in masked.pools)
    live = 0
    moved = 0.0
    layers = {}
    for pool in masked.pools:
        scores = pool.scores()
        for name, cost in pool.costs.items():
            now = masks[name].cpu()
            then = hard[name].cpu()
            live += int(cost[now > pool.eps].sum())
            moved += float(((now - then).abs().double() * cost).sum())
            layers |= _layers(pool.sharing[name], scores[name], then > 0)
    kept = sum(layer["kept"] for layer in layers.values())
    return {
        "asked_sparsity": sum(pool.asked for pool in masked.pools) / weights,
        "kept_sparsity": 1 - kept / weights,
        "live": live / weights,
        "gap": moved / kept,
        "layers": {name: layers[name] for name in masked_layers(masked.model) if name in layers},
    }


def _layers(shared: dict[str, Masked], scores: Tensor, kept: Tensor) -> dict[str, dict[str, float]]:
    """Count weights and kept weights of the layers that share scores, once for each weight."""
    own = own_weights(list(shared.values()))
    found = {}
    for name, layer in shared.items():
        if any(layer is each for each in own):
            cost = layer.pattern.cost(layer.shape)
            if layer.index is not None:
                cost[layer.index.cpu() < 0] = 0  # channels that stay are not prunable
            found[name] = {"weights": int(cost.sum()), "kept": int(cost[layer.per_tile(kept)].sum())}
            if layer.pattern.local:
                found[name]["score_lost"] = layer.pattern.score_lost(scores, layer.shape)
    return found
