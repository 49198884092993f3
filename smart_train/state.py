"""The state of a pruner, plain enough for ``torch.load(weights_only=True)``."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pruner import SmartPruner


def take(pruner: "SmartPruner") -> dict[str, Any]:
    """See ``SmartPruner.state_dict``."""
    fixed = pruner.layers if pruner.stage == "finetune" else {}
    return {
        "step": pruner.steps,
        "stage": pruner.stage,
        "pools": _signature(pruner),
        "thresholds": [pool.threshold for pool in pruner.pools],
        "masks": {name: layer.gate.mask.bool() for name, layer in fixed.items()},
    }


def restore(pruner: "SmartPruner", taken: dict[str, Any]) -> None:
    """See ``SmartPruner.load_state_dict``."""
    if taken["pools"] != _signature(pruner):
        raise ValueError(f"the state must be of the pools {_signature(pruner)}, got {taken['pools']}")
    pruner.steps, pruner.stage = taken["step"], taken["stage"]
    for pool, threshold in zip(pruner.pools, taken["thresholds"], strict=True):
        device = next(iter(pool.layers.values())).scores.device
        pool.threshold = None if threshold is None else threshold.to(device, copy=True)
    if pruner.stage == "finetune":
        pruner.fix_masks({name: mask.float() for name, mask in taken["masks"].items()})
        return
    for pool in pruner.pools:
        for layer in pool.layers.values():
            layer.scores.requires_grad_(True)
        soft = pruner.stage == "search"
        pruner.set_gates(pool.gates(pool.threshold, pruner.temperature) if soft else dict.fromkeys(pool.layers))


def _signature(pruner: "SmartPruner") -> list[dict[str, str]]:
    """The layers of each pool, with pattern, shape and what it keeps, readable."""
    return [
        {name: f"{layer.pattern} on {tuple(layer.shape)}, keep {pool.target}" for name, layer in pool.layers.items()}
        for pool in pruner.pools
    ]
