"""``mask_`` and ``unmask_``: a model becomes prunable in place, and plain again."""

import logging

import torch
from torch import nn

from smart_kernels.nn import (
    MASKED_CONVS,
    LiveNorm,
    Masked,
    MaskedBatchNorm,
    MaskedConv2d,
    MaskedLinear,
    masked_batchnorm,
    start_scores_,
)
from smart_kernels.patterns import Pattern, check_pattern

from .channels import Group, rehearsed, settle_norms_, watch_norms_
from .maskable import Filter, layers_to_mask
from .modules import (
    Outputs,
    check_whole,
    following_batchnorms,
    switch_fast_paths_,
    users_of_weights,
    whole_or_not_at_all,
)

logger = logging.getLogger("smart_kernels")
MASKED: tuple[type[Masked], ...] = (MaskedLinear, MaskedConv2d, *MASKED_CONVS)
MASKED_CLASSES = {cls.dense_class: cls for cls in MASKED}


def mask_(model: nn.Module, pattern: Pattern, filter_fn: Filter | None = None, example_input=None) -> dict[str, Masked]:
    """Make the Linears and convolutions of a model prunable, in place.

    The modules stay the same objects (hooks, tying and optimizers survive); their class is swapped. Weights shared by
    several layers get one score tensor. ``nn.MultiheadAttention`` becomes a ``SplitAttention``, so that all four
    projections can be pruned. Subclasses of these classes and weights that are computed from others stay, with one line
    in the log; masks of ``torch.nn.utils.prune`` become zeros. Scores of weights without ``requires_grad`` do not learn
    either. Layers that are masked already are left as they are: call again with another pattern for other layers.

    Args:
        model: any module; plain ``nn.Linear`` and convolutions in it are considered.
        pattern: what is kept or pruned together. For convolutions larger than 1x1 that are to run on a CPU,
            ``Block(32, 32, taps="all")``, which ``parse("block:32x32:all")`` gives.
        filter_fn: ``(module, name) -> bool``, which layers to prune. Default: all but grouped convolutions, the stem
            (a convolution with at most 4 input channels; with ``width`` it is pruned), the head (the last Linear,
            unless it is one of a block that repeats), and weights smaller than one tile of the pattern; of convolutions
            other than ``nn.Conv2d``, which run dense whatever their zeros, those only where whole channels are pruned.
        example_input: for whole channels, what to run the model on to find out which layers share channels (sums,
            ``cat``, grouped convolutions, BatchNorms). They get one score per shared channel, and grouped convolutions
            and BatchNorms are masked with the layers in front of them, so that ``slim_`` can remove what is pruned.
            Layers with a channel that cannot be removed are left out, with one line in the log: half of the channels
            are pruned and slimmed on a copy to find out. Default: every layer has its own scores.
            For ``Channel(width=True)`` it must be given; norms whose channels can be removed are over the live ones
            until ``slim_`` makes them plain again.

    Returns:
        The newly masked layers by name.

    Raises:
        ValueError: ``pattern`` is none, or prunes widths without an example; no layer was chosen, ``slim_`` could not
            remove what is pruned, the output shows no tensor to compare, or it has changed. The model is as it was
            then, as after any other error.
    """
    check_pattern(pattern)
    check_whole(model, "mask_")
    if example_input is not None and not pattern.whole_channels:
        raise ValueError(f"example_input couples output channels, so the pattern must be channel, got {pattern}")
    if pattern.width and example_input is None:
        raise ValueError("Channel(width=True) prunes channels that many layers share: example_input must show which")
    with whole_or_not_at_all(model):
        expected = None if example_input is None else Outputs(model, example_input)
        layers = _mask(model, pattern, filter_fn, example_input)
        switch_fast_paths_(model)
        if expected is not None:
            expected.check(model, "mask_")
    return layers


def _mask(model: nn.Module, pattern: Pattern, filter_fn: Filter | None, example_input) -> dict[str, Masked]:
    before = masked_layers(model)
    layers = layers_to_mask(model, pattern, filter_fn)
    if layers and example_input is not None:
        if pattern.width:
            watch_norms_(model)
        groups, notes = rehearsed(model, layers, example_input)
        for note in notes:
            logger.warning(note)
        _mask_coupled(groups, pattern)
        settle_norms_(model)
        layers = {name: layer for name, layer in masked_layers(model).items() if layer.pattern == pattern}
    elif layers:
        mask_each(layers, pattern, _followers(model) if pattern.whole_channels else {})
    if not layers:
        already = f"; {len(before)} layers are masked already" if before else ""
        raise ValueError(f"mask_ needs at least one nn.Linear or convolution to prune as {pattern}, got none{already}")
    return layers


def _followers(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """Find the BatchNorms that can carry the mask of the layer in front: with weights, which nobody shares."""
    users = users_of_weights(model)
    pairs = following_batchnorms(model) or {}
    return {
        layer: norm
        for layer, norm in pairs.items()
        if norm.weight is not None and all(len(users[id(p)]) == 1 for p in norm.parameters())
    }


def mask_each(layers: dict[str, nn.Module], pattern: Pattern, followers: dict[nn.Module, nn.Module]) -> None:
    """Mask each layer by its own scores, or by those of the layers that share its weight.

    Args:
        layers: by name.
        pattern: of all of them.
        followers: the BatchNorm that carries the mask of a layer.
    """
    scores: dict[int, nn.Parameter] = {}
    for layer in layers.values():
        layer.__class__ = MASKED_CLASSES[layer.__class__]
        layer.attach(pattern, scores.get(id(layer.raw_weight)))
        scores[id(layer.raw_weight)] = layer.scores
        if layer in followers:
            batchnorm = followers[layer]
            batchnorm.__class__ = masked_batchnorm(type(batchnorm))
            batchnorm.follow(layer)


def _mask_coupled(groups: list[Group], pattern: Pattern) -> None:
    """Mask the layers and norms of each group by one score tensor."""
    for group in groups:
        first = group.layers[0].module
        learns = any(layer.weight.requires_grad for layer, _ in group.layers)
        scores = nn.Parameter(torch.zeros(group.size, 1, device=first.weight.device), learns)
        for layer, index in group.layers:
            layer.__class__ = MASKED_CLASSES[type(layer)]
            layer.attach(pattern, scores, index)
        start_scores_([layer for layer, _ in group.layers], lambda importance: importance)
        for (norm, index), before in group.norms:
            if not isinstance(norm, LiveNorm):
                norm.__class__ = masked_batchnorm(type(norm))
            norm.follow_scores(first, index)
            if before is not None:
                before.__dict__["batchnorm"] = norm


def unmask_(model: nn.Module) -> nn.Module:
    """Bake the hard masks into the weights as exact zeros and leave plain layers, in place.

    Norms of ``Channel(width=True)`` stay norms over the live channels, for ``slim_`` to make plain.

    Needs the memory of the masked weights once more, on the CPU: the model is as it was after any error.

    Raises:
        ValueError: a layer still has a soft mask, or parameters are in shards. The model is as it was then.
    """
    check_whole(model, "unmask_")
    layers = masked_layers(model)
    batchnorms = [module for module in model.modules() if isinstance(module, MaskedBatchNorm)]
    norms = [module for module in model.modules() if isinstance(module, LiveNorm) and "layer" in vars(module)]
    if layers and all(layer.gate is None for layer in layers.values()):
        logger.warning("unmask_ prunes nothing: no pruner has set a mask, or this is a copy that has lost its pruner")
    for layer in layers.values():
        layer.check_hard()
    with whole_or_not_at_all(model) as before:
        before.keep(*(p for module in (*batchnorms, *layers.values()) for p in _written(module)))
        for module in (*norms, *batchnorms, *layers.values()):
            module.detach()
    return model


def _written(module: Masked | MaskedBatchNorm) -> list[nn.Parameter | None]:
    return [module._parameters["weight"], module._parameters["bias"]]


def masked_layers(model: nn.Module) -> dict[str, Masked]:
    """Return the masked layers of a model by name, in module order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Masked)}
