"""Predict what pruning a layer loses, by pattern and density."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smart_kernels import Masked, Pattern
from smart_kernels.convert import lent
from smart_kernels.patterns import allowed_weights
from smart_train.masks import Budget, MaskedModel
from smart_train.pruners.taylor import saliency


class LossCurve:
    """What a layer loses with the least of its tiles, over the density: ``-log`` of the share of its worth that stays.

    Layers work one behind the other, so what survives all of them is the product of the shares: losses add up over
    layers. And the last tiles of a layer are dear, as they are in truth.

    Args:
        worth: (rows, cols) of each tile, >= 0; only shares of the layer's sum count.
        cost: (rows, cols) weights in it.
        layer: that they belong to.
    """

    def __init__(self, worth: Tensor, cost: Tensor, layer: Masked):
        self.weights = int(cost.sum())
        self.density, self.loss = _implied(worth, cost, layer) if layer.pattern.local else (None, None)
        order = worth.flatten().double().sort(descending=True)
        self._kept = cost.flatten()[order.indices].cumsum(0)
        self._shares = _shares(order.values.cumsum(0), order.values.sum())

    def at(self, density: float) -> tuple[float, float] | None:
        """Return what is really kept within a density, and the loss; None where not even the best tile fits."""
        if self.density is not None:
            return self.density, self.loss
        count = int(torch.searchsorted(self._kept, allowed_weights(1 - density, self.weights), right=True))
        if count == 0:
            return None
        return int(self._kept[count - 1]) / self.weights, _lost(float(self._shares[count - 1]))


def _implied(worth: Tensor, cost: Tensor, layer: Masked) -> tuple[float, float]:
    mask = layer.pattern.hard_mask(worth, layer.shape)
    share = _shares((worth * mask).double().sum(), worth.double().sum())
    return float((mask * cost).sum()) / int(cost.sum()), _lost(float(share))


def _shares(kept: Tensor, whole: Tensor) -> Tensor:
    """Return what part of a worth is kept; all of it where there is none."""
    return kept / whole if whole > 0 else torch.ones_like(kept)


def _lost(share: float) -> float:
    """Return what keeping a share loses; infinite only where nothing of any worth is kept."""
    return max(0.0, -math.log(share)) if share > 0 else math.inf


def loss_curves(
    model: nn.Module,
    wanted: dict[Pattern, Iterable[str]],
    batches: Sequence[Sequence[Any]] | None,
    loss: Callable[..., Tensor] | None,
) -> dict[tuple[str, str], LossCurve]:
    """Return the curve of each layer in each pattern, by name and text of the pattern. The model is as it was then.

    A tile is worth the sum of its squared weights. With batches it is worth its saliency, ``(sum of w * dloss/dw)^2``
    summed over the batches, see ``saliency``: that knows what nothing reads, but a few batches say little of one tile.

    Args:
        model: plain, in the mode (train or eval) that the gradients are wanted in.
        wanted: names of layers by the pattern to try on them.
        batches, loss: see ``Pruner.prepare``; None for magnitudes.
    """
    found: dict[tuple[str, str], LossCurve] = {}
    for pattern, names in wanted.items():
        with lent(model):
            found |= _in_pattern(_masked(model, pattern, frozenset(names)), str(pattern), batches, loss)
    return found


def _in_pattern(masked: MaskedModel, text: str, batches, loss) -> dict[tuple[str, str], LossCurve]:
    worth = saliency(masked, batches, loss) if batches else _energy(masked)
    costs = {name: cost for pool in masked.pools for name, cost in pool.costs.items()}
    found = {}
    for first, layers in masked.sharing.items():
        curve = LossCurve(worth[first].cpu(), costs[first], layers[first])
        found |= {(name, text): curve for name in layers}
    return found


def _masked(model: nn.Module, pattern: Pattern, names: frozenset[str]) -> MaskedModel:
    where = {"filter_fn": lambda _, name: name in names, "example_input": None, "process_group": None}
    return MaskedModel(model, pattern, Budget(pattern.sparsity or 0.0), check=lambda masked: None, **where)


def _energy(masked: MaskedModel) -> dict[str, Tensor]:
    """Return the sum of the squared weights of each tile."""
    found = {}
    for name, layer in masked.layers.items():
        squares = layer.matrix().detach().float().square()
        found[name] = layer.pattern.importance(squares) * layer.pattern.cost(layer.shape).to(squares.device)
    return found
