"""Which layers have to share channel scores, so that a channel can really be removed."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smart_kernels.convert.modules import BATCHNORMS
from smart_kernels.nn import LiveNorm

from .follow import Follower
from .resize import CONVOLUTIONS
from .ties import STAYS


class Member(NamedTuple):
    """A module and the place of each of its channels among the scores of its group; -1 for a channel that stays."""

    module: nn.Module
    index: Tensor


class Group(NamedTuple):
    """Layers and norms whose channels depend on each other.

    Attributes:
        size: how many scores they share.
        layers: those that write channels.
        norms: BatchNorms, with the layer whose output they alone read or None, and norms over live channels, with None.
    """

    size: int
    layers: list[Member]
    norms: list[tuple[Member, nn.Module | None]]


def coupled(found: Follower, model: nn.Module, chosen: dict[str, nn.Module]) -> list[Group]:
    """Find groups of the chosen layers and of the grouped convolutions and norms that their channels run through.

    A layer is left out where a channel of it cannot be removed: the model returns it, something like a LayerNorm mixes
    it with others, or a layer that is not chosen writes it, too. ``found.notes`` says so.

    Args:
        found: of a run of the model.
        model: the same.
        chosen: layers to prune by name.
    """
    writers = {name: module for name, module in model.named_modules() if _writes(found, module)}
    roots = {name: _roots(found, module.weight) for name, module in writers.items()}
    free = _free(found, writers, roots, chosen)
    removable = {root for name in free for root in roots[name]}
    layers = free | {
        name: m for name, m in writers.items() if _grouped(found, m) and not removable.isdisjoint(roots[name])
    }
    norms = _norms(model, found, removable)
    followers = found.followers()
    directly = {followers.get(id(layer.weight)): layer for layer in layers.values()}
    groups = []
    for order in _components([roots[name] for name in layers], list(norms.values()), removable):
        members = _members(order, ((layer, roots[name]) for name, layer in layers.items()))
        own = _members(order, norms.items())
        groups.append(Group(len(order), members, [(norm, directly.get(id(norm.module.weight))) for norm in own]))
    return groups


def _free(found: Follower, writers: dict, roots: dict, chosen: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Find the chosen layers whose channels can all be removed, by name."""
    free = {name: writers[name] for name in chosen if name in writers}
    for name in (name for name in chosen if name not in free):
        runs = id(chosen[name].weight) in found.axes
        why = "its channels cannot be removed" if runs else "it does not run on the example"
        found.notes[f"{name} stays dense: {why}"] = None
    while stuck := _stuck(found, writers, roots, free):
        for name in stuck:
            why = found.why.get(id(free[name].weight), "a layer that is not pruned has them, too")
            found.notes[f"{name} stays dense: its channels cannot be removed: {why}"] = None
            del free[name]
    return free


def _norms(model: nn.Module, found: Follower, removable: set[int]) -> dict[nn.Module, list[int]]:
    """Find the norms that removable channels run through, with the roots of their channels."""
    norms = {
        module: _roots(found, module.weight)
        for module in model.modules()
        if _carries_masks(module) and id(module.weight) in found.axes
    }
    return {module: own for module, own in norms.items() if not removable.isdisjoint(own)}


def _carries_masks(module: nn.Module) -> bool:
    return isinstance(module, LiveNorm) or (isinstance(module, BATCHNORMS) and module.affine)


def _members(order: dict[int, int], modules: Iterable[tuple[nn.Module, list[int]]]) -> list[Member]:
    """Find the modules with a channel in ``order``, given the roots of their channels."""
    return [Member(module, _index(order, own)) for module, own in modules if not order.keys().isdisjoint(own)]


def _stuck(found: Follower, writers: dict, roots: dict, free: dict) -> list[str]:
    """Find layers with a channel that stays, or that a dense layer outside of ``free`` writes.

    Tables do not hold what they are added to: a bias for each head needs no zeros. Elsewhere a rehearsal shows it.
    """
    tables = {id(module.weight) for module in writers.values() if isinstance(module, nn.Embedding)}
    others = [name for name in writers if name not in free and not _grouped(found, writers[name])]
    held = {root for name in others if id(writers[name].weight) not in tables for root in roots[name]}
    held.add(STAYS)
    return [name for name in free if not held.isdisjoint(roots[name])]


def _components(layers: list[list[int]], norms: list[list[int]], removable: set[int]) -> list[dict[int, int]]:
    """Find sets of roots that some layer or norm has together, each as root -> place."""
    merged: list[dict[int, None]] = []
    for own in [*layers, *norms]:
        new = {root: None for root in own if root in removable}
        for other in [group for group in merged if not group.keys().isdisjoint(new)]:
            merged.remove(other)
            new = other | new
        if new:
            merged.append(new)
    return [{root: place for place, root in enumerate(group)} for group in merged]


def _writes(found: Follower, module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and (id(weight) in found.dense or id(weight) in found.grouped)


def _grouped(found: Follower, module: nn.Module) -> bool:
    return id(module.weight) in found.grouped and type(module) in CONVOLUTIONS


def _roots(found: Follower, weight: Tensor) -> list[int]:
    axis = 1 if id(weight) in found.transposed else 0
    return found.ties.roots(found.axes[id(weight)][axis]).tolist()


def _index(order: dict[int, int], roots: list[int]) -> Tensor:
    return torch.tensor([order.get(root, -1) for root in roots])
