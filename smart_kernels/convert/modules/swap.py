"""Layers that become others, in place."""

from torch import nn

from .fast_path import switch_fast_paths_

OWN = ("weight", "bias", "format", "live", "running_mean", "running_var", "num_batches_tracked")
FUSED = ("epilogue", "joined")  # what a sparse layer does with others of its model
BASE = frozenset(vars(nn.Module()))  # attributes that every module has, hooks and mode among them


def swap_(model: nn.Module, swaps: dict[nn.Module, nn.Module]) -> None:
    """Make modules of a model what others are.

    They stay the same objects: names, references in lists, hooks, mode and attributes of the user's survive. Given up
    are the tensors and submodules that such a layer computes with, ``OWN``.
    """
    for module, other in swaps.items():
        _become(module, other)
    switch_fast_paths_(model)


def _become(module: nn.Module, other: nn.Module) -> None:
    for registered in (module._parameters, module._buffers, module._modules):
        for name in OWN:
            registered.pop(name, None)
    for name in FUSED:
        vars(module).pop(name, None)
    module._parameters.update(other._parameters)
    module._buffers.update(other._buffers)
    module._modules.update(other._modules)
    module._non_persistent_buffers_set.difference_update(OWN)
    module._non_persistent_buffers_set.update(other._non_persistent_buffers_set)
    vars(module).update({name: value for name, value in vars(other).items() if name not in BASE})
    module.__class__ = other.__class__
