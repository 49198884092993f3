"""The tiles and weights that a finalized model has kept, counted in its weights and not in its masks."""

from collections.abc import Callable

from torch import Tensor, nn

from smart_kernels import Pattern, WeightShape
from smart_kernels.patterns import allowed_weights

PatternOf = Callable[[str], Pattern]


def tiles(model: nn.Module, names: list[str], pattern_of: PatternOf) -> dict[str, Tensor]:
    """Return (rows, cols) bool per layer: which tiles hold anything but zeros."""
    return {name: pattern_of(name).importance(_matrix(model.get_submodule(name))).cpu() > 0 for name in names}


def budget(model: nn.Module, masks: dict[str, Tensor], last: dict, pattern_of: PatternOf) -> dict:
    """Return how many weights there were, were asked for and are kept, the last counted in the model.

    Args:
        masks: as ``tiles`` found them.
        last: the pruner's last report, as ``Stages.pruned`` returns it.
        pattern_of: gives the pattern of a layer by its name.
    """
    kept = 0
    weights = sum(layer["weights"] for layer in last["layers"].values())
    for name, mask in masks.items():
        cost = pattern_of(name).cost(WeightShape(*_matrix(model.get_submodule(name)).shape))
        fixed = int(cost.sum()) - last["layers"][name]["weights"]  # channels that could not be pruned
        kept += int(cost[mask].sum()) - fixed
    asked = allowed_weights(last["asked_sparsity"], weights)
    return {"prunable": weights, "asked": asked, "kept": kept, "largest_block": last["largest"]}


def _matrix(layer: nn.Module) -> Tensor:
    """Return a (N, taps, C) view of the weight of a plain Linear or Conv2d."""
    return layer.weight.flatten(2).transpose(1, 2) if layer.weight.dim() > 2 else layer.weight.unsqueeze(1)
