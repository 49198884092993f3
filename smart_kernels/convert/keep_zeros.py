"""``mask_from_zeros_``: a pruned model trains on and keeps its zeros."""

import torch
from torch import nn

from smart_kernels.nn import HardGate, Masked, matrix, weight_shape
from smart_kernels.patterns import Block

from .compress import explaining_tile
from .mask import mask_each
from .maskable import Filter, layers_to_mask
from .modules import check_whole, switch_fast_paths_, whole_or_not_at_all

SINGLE = Block(1, 1)


def mask_from_zeros_(model: nn.Module, filter_fn: Filter | None = None) -> dict[str, Masked]:
    """Hold the zeros of a pruned model while it trains on, in place; ``unmask_`` makes it plain again.

    Anybody's zeros: those of ``finalize()``, of another library or of ``torch.nn.utils.prune``, whose masks become
    zeros. The optimizer may be the one of the search: whatever its momentum does to pruned weights, they count as 0
    and are exactly 0 after ``unmask_``. Averages and other copies keep them, too. The mask of a layer has one value for
    each of the largest tiles that its zeros are made of, or for each weight where there are none.

    Args:
        model: with plain ``nn.Linear`` and convolutions that have zeros; modules stay the same objects.
        filter_fn: ``(module, name) -> bool``, which of these; default: all.

    Returns:
        The newly masked layers by name, with fixed masks, and scores that do not learn.

    Raises:
        ValueError: no layer has a zero. The model is as it was then, as after any other error.
    """
    check_whole(model, "mask_from_zeros_")

    def chosen(module: nn.Module, name: str) -> bool:
        return bool((module.weight == 0).any()) and (filter_fn is None or filter_fn(module, name))

    with whole_or_not_at_all(model):
        layers = layers_to_mask(model, SINGLE, chosen)
        if not layers:
            raise ValueError("mask_from_zeros_ needs an nn.Linear or a convolution with zeros in its weight, got none")
        for pattern, alike in _by_pattern(layers).items():
            mask_each(alike, pattern, {})
        for layer in layers.values():
            layer.scores.requires_grad_(False)
            layer.gate = HardGate((layer.pattern.importance((layer.matrix() != 0).float()) > 0).float())
        switch_fast_paths_(model)
    return layers


def _by_pattern(layers: dict[str, nn.Module]) -> dict[Block, dict[str, nn.Module]]:
    """Sort layers by the largest block that explains all of their zeros."""
    found: dict[Block, dict[str, nn.Module]] = {}
    for name, layer in layers.items():
        found.setdefault(_pattern(layer), {})[name] = layer
    return found


@torch.no_grad()
def _pattern(layer: nn.Module) -> Block:
    weight, shape = matrix(layer), weight_shape(layer)
    tile = explaining_tile(weight, shape.taps)
    if tile is None:
        return SINGLE
    pattern = Block(*tile)
    live = (weight != 0).view(shape)
    mask = pattern.expand((pattern.importance(live.float()) > 0).float(), shape)
    return pattern if torch.equal(mask != 0, live) else SINGLE  # a zero by chance, in a tile that is not pruned
