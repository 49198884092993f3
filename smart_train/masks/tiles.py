"""From weights to tiles and back, for methods that score or change single weights."""

from collections.abc import Callable

import torch
from torch import Tensor

from smart_kernels import Masked
from smart_kernels.nn import own_weights

from .masked_model import MaskedModel, Masks


@torch.no_grad()
def tile_means(masked: MaskedModel, values: Callable[[Masked], Tensor]) -> Masks:
    """Return the mean of ``|values|`` over the weights that each score stands for, of all layers that share it.

    Args:
        values: takes a layer, gives (N, taps, C).
    """
    found = {}
    for pool in masked.pools:
        for name, layers in pool.sharing.items():
            total = 0
            for layer in own_weights(list(layers.values())):
                matrix = values(layer)
                cost = layer.pattern.cost(layer.shape).to(matrix.device)
                total = total + layer.per_score(layer.pattern.importance(matrix) * cost)
            found[name] = total / pool.costs[name].to(total.device)
    return found


def per_weight(layer: Masked, values: Tensor) -> Tensor:
    """Spread (rows, cols) values per score over the weights, in the shape of ``raw_weight``."""
    spread = layer.pattern.expand(layer.per_tile(values), layer.shape)
    return spread.transpose(1, 2).reshape(layer.raw_weight.shape)


@torch.no_grad()
def fold_(masked: MaskedModel) -> None:
    """Multiply weights, biases and BatchNorms by the masks that they are read through; the masks stay."""
    read = {}
    for module in masked.model.modules():
        for name in ("weight", "bias"):
            raw = module._parameters.get(name)
            if raw is not None and getattr(module, name) is not raw:
                read[id(raw)] = raw, getattr(module, name)
    for raw, value in read.values():
        raw.copy_(value)
