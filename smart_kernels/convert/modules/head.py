"""The head of a model: the layer whose output is the model's."""

import re

from torch import nn


def head_of(model: nn.Module) -> nn.Module | None:
    """Return the last Linear, or None where that is no head, as far as can be seen without a run.

    It is none where it is the only layer with a weight, and where another block of the same kind has one like it: then
    it is a part of what repeats, as the ``fc2`` of a decoder's last block is.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    linears = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    if not linears or len(layers) == 1:
        return None
    last = linears[-1]
    alike = [name for name in linears[:-1] if _place(last) and _place(name) == _place(last)]
    part = type(layers[last]) is not nn.Linear  # the last projection of an attention is no head
    repeats = part or any(layers[name].weight.shape == layers[last].weight.shape for name in alike)
    return None if repeats else layers[last]


def _place(name: str) -> str | None:
    """Return the name without the numbers of the blocks it is in; None for one that is in none."""
    inside, _, own = name.rpartition(".")
    blocks = re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", inside)
    return f"{blocks}.{own}" if blocks != inside else None
