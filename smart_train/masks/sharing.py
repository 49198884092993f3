"""The layers of a model that share scores, and a common scale for the scores of different layers."""

import torch
from torch import Tensor, nn

from smart_kernels import Masked, masked_layers

Sharing = dict[str, dict[str, Masked]]


def sharing(model: nn.Module) -> Sharing:
    """Return the masked layers by name, those that share a score tensor together, under the name of the first.

    Raises:
        ValueError: there are none.
    """
    found: dict[int, tuple[str, dict[str, Masked]]] = {}
    for name, layer in masked_layers(model).items():
        found.setdefault(id(layer.scores), (name, {}))[1][name] = layer
    if not found:
        raise ValueError("without a pattern the model must hold layers prepared by mask_, got none")
    return dict(found.values())


def standardised(importance: Tensor) -> Tensor:
    """Return mean 0 and deviation 1, float64; where all are equal, 0 and not their rounding errors blown up."""
    importance = importance.double()
    centred = importance - importance.mean()
    floor = 1e-6 * importance.mean() + torch.finfo(torch.float64).tiny
    return centred / centred.square().mean().sqrt().clamp_min(floor)
