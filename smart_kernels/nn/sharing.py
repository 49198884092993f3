"""Scores that several layers share: one tensor for tied weights, and one for channels that run through many layers."""

from collections.abc import Callable

import torch
from torch import Tensor

from .masked import Masked


def own_weights(layers: list[Masked]) -> list[Masked]:
    """Return one layer for each weight."""
    return list({id(layer.raw_weight): layer for layer in reversed(layers)}.values())[::-1]


def score_costs(layers: list[Masked]) -> Tensor:
    """Return (rows, cols) int64: how many weights of the layers that share it each score stands for.

    A coupled channel costs its row in every layer that writes it; the columns of those that read it are not counted,
    since what they cost depends on which of their own rows are kept.
    """
    return sum(layer.per_score(layer.pattern.cost(layer.shape)) for layer in own_weights(layers))


@torch.no_grad()
def start_scores_(layers: list[Masked], transform: Callable[[Tensor], Tensor]) -> None:
    """Set shared scores to ``transform(mean magnitude per tile)``, averaged over the layers and transformed again."""
    own = [(layer, transform(layer.pattern.importance(layer.matrix()))) for layer in own_weights(layers)]
    layer, start = own[0]
    if layer.index is not None:
        count = sum(each.per_score(torch.ones_like(values)) for each, values in own)
        start = transform(sum(each.per_score(values) for each, values in own) / count)
    layer.scores.copy_(start)
