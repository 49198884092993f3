"""What a pruner is doing, in numbers. Looking waits for the GPU, so look now and then, not every step."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from smart_kernels import Masked, masked_layers
from smart_kernels.nn import own_weights

if TYPE_CHECKING:
    from .pruner import SmartPruner

Masks = dict[str, Tensor]


@torch.no_grad()
def status(pruner: "SmartPruner") -> dict[str, Any]:
    """See ``SmartPruner.report``."""
    check_not_nan("scores", {name: layer.scores for name, layer in pruner.layers.items()})
    soft, hard = _masks(pruner)
    check_not_nan("mask", soft)
    weights = sum(pool.weights for pool in pruner.pools)
    live, moved, layers = 0, 0.0, {}
    for pool in pruner.pools:
        for name, cost in pool.costs.items():
            f, h = soft[name].cpu(), hard[name].cpu()
            live += int(cost[f > pool.eps].sum())
            moved += float(((f - h).abs().double() * cost).sum())
            layers |= _layers(pool.sharing[name], h > 0)
    kept = sum(layer["kept"] for layer in layers.values())
    return {
        "step": pruner.steps,
        "stage": pruner.stage,
        "temperature": pruner.temperature,
        "asked_sparsity": sum(pool.asked for pool in pruner.pools) / weights,
        "kept_sparsity": 1 - kept / weights,
        "live": live / weights,
        "gap": moved / kept,
        "layers": {name: layers[name] for name in masked_layers(pruner.model) if name in layers},
    }


def _layers(sharing: dict[str, Masked], kept: Tensor) -> dict[str, dict[str, float]]:
    """Weights and kept weights of the layers that share scores, one for each weight."""
    own, found = own_weights(list(sharing.values())), {}
    for name, layer in sharing.items():
        if any(layer is each for each in own):
            cost = layer.pattern.cost(layer.shape)
            if layer.index is not None:
                cost[layer.index.cpu() < 0] = 0  # channels that stay are not prunable
            found[name] = {"weights": int(cost.sum()), "kept": int(cost[layer.per_tile(kept)].sum())}
            if layer.pattern.local:
                found[name]["score_lost"] = layer.pattern.score_lost(layer.scores, layer.shape)
    return found


def check_not_nan(what: str, values: Masks) -> None:
    """Raise ValueError with the names of the layers that have NaN in ``values``."""
    broken = [name for name, value in values.items() if value.isnan().any()]
    if broken:
        raise ValueError(f"{what} must be free of NaN, got NaN in {', '.join(broken)}")


def _masks(pruner: "SmartPruner") -> tuple[Masks, Masks]:
    """The masks as they are, and what hardening would make of them now."""
    if pruner.stage == "finetune":
        fixed = {name: layer.gate.mask for name, layer in pruner.layers.items()}
        return fixed, fixed
    if pruner.stage == "dense":
        full = {name: torch.ones_like(layer.scores) for name, layer in pruner.layers.items()}
        return full, full
    soft, hard = {}, {}
    for pool in pruner.pools:
        soft |= pool.soft_masks(pruner.keep(pool), pruner.temperature)
        hard |= pool.hard_masks()
    return soft, hard
