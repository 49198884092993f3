"""Which layers ``mask_`` masks, and a line about each that it cannot."""

import logging
from collections.abc import Callable

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from smart_kernels.nn import Masked, weight_shape
from smart_kernels.patterns import Pattern

from .modules import (
    LAYERS,
    MASKABLE,
    bake_torch_masks_,
    head_of,
    left_alone,
    split_attention_,
    users_of_weights,
    why_not_plain,
)

logger = logging.getLogger("smart_kernels")
Filter = Callable[[nn.Module, str], bool]
STEM_CHANNELS = 4  # a convolution that reads an image has at most this many input channels


def layers_to_mask(model: nn.Module, pattern: Pattern, filter_fn: Filter | None) -> dict[str, nn.Module]:
    """Return the plain Linears and convolutions to mask by name, those of attention among them.

    Attentions are split, masks of ``torch.nn.utils.prune`` become zeros; what is wanted and cannot be masked is named
    in the log, and without a filter of the user's also what else has a weight.
    """
    layers = _chosen(model, filter_fn or _default_filter(model, pattern), pattern)
    if filter_fn is None:
        _warn_of_others(model, pattern)
    return layers


def prunable(model: nn.Module, pattern: Pattern) -> dict[str, nn.Module]:
    """Return the layers that ``mask_`` takes where nobody says which, by name; attentions are split, nothing else."""
    chosen = _default_filter(model, pattern)
    split_attention_(model, chosen)
    layers = {name: layer for name, layer in _candidates(model).items() if not _is_lazy(layer) and chosen(layer, name)}
    plain = {name: layer for name, layer in layers.items() if why_not_plain(layer) is None}  # Linears and Conv2ds
    return _without_shared(model, plain, pattern)


def _chosen(model: nn.Module, chosen: Filter, pattern: Pattern) -> dict[str, nn.Module]:
    split_attention_(model, chosen)
    wanted = {name: module for name, module in _candidates(model).items() if _is_lazy(module) or chosen(module, name)}
    bake_torch_masks_(model, list(wanted.values()))
    reasons = {name: why_not_plain(module, MASKABLE) for name, module in wanted.items()}
    for name, reason in reasons.items():
        if reason:
            logger.warning("%s stays dense: %s", name, reason)
    return _without_shared(model, {name: wanted[name] for name, reason in reasons.items() if not reason}, pattern)


def _candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Find the Linears and convolutions by name, subclasses too; but not what is part of an attention."""
    attentions = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    parts = {part for attention in attentions for part in attention.modules()}
    found = {name: m for name, m in model.named_modules() if isinstance(m, MASKABLE) and not isinstance(m, Masked)}
    return {name: m for name, m in found.items() if type(m) in MASKABLE or m not in parts}


def _is_lazy(module: nn.Module) -> bool:
    return isinstance(module, LazyModuleMixin)


def _warn_of_others(model: nn.Module, pattern: Pattern) -> None:
    """Say once for each kind which layers with weights are none of those that can be pruned."""
    known = (*(MASKABLE if pattern.whole_channels else LAYERS), nn.MultiheadAttention)
    kinds: dict[str, list[str]] = {}
    for name, reason in left_alone(model).items():
        if not isinstance(model.get_submodule(name), known):
            kinds.setdefault(reason, []).append(name or "the model")
    for reason, names in kinds.items():
        logger.warning("%s stays dense: %s", ", ".join(names), reason)


def _default_filter(model: nn.Module, pattern: Pattern) -> Filter:
    head = head_of(model)
    kinds = MASKABLE if pattern.whole_channels else LAYERS  # zeros in other layers gain nothing
    stem = 0 if pattern.width else STEM_CHANNELS  # a stem writes into the residual stream

    def chosen(module: nn.Module, name: str) -> bool:
        if module is head or not isinstance(module, kinds):
            return False
        if not isinstance(module, nn.Linear) and (module.groups != 1 or module.in_channels <= stem):
            return False
        return pattern.fits(weight_shape(module))

    return chosen


def _without_shared(model: nn.Module, layers: dict[str, nn.Module], pattern: Pattern) -> dict[str, nn.Module]:
    """Leave out weights that a module outside ``layers`` uses too, and biases of whole channels that others use."""
    users = users_of_weights(model)
    alone = {}
    for name, layer in layers.items():
        sharing = users[id(layer.weight)]
        what = "weight"
        others = [user for user in sharing if user not in layers]
        if not others and pattern.whole_channels and layer.bias is not None:
            what = "bias"
            others = [user for user in users[id(layer.bias)] if user not in sharing]
        if others:
            logger.warning("%s stays dense: its %s is also used by %s", name, what, ", ".join(others))
        else:
            alone[name] = layer
    return alone
