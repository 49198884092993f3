"""Replacing layers inside a model."""

from torch import nn

from .fast_path import switch_fast_paths_


def swap_(model: nn.Module, swaps: dict[nn.Module, nn.Module]) -> None:
    """Replace modules wherever they are used."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in swaps:
                parent._modules[name] = swaps[child]
    switch_fast_paths_(model)
