"""Indicators that anneal, learned in turns with the weights."""

from typing import Any

import torch
from torch import nn

from smart_kernels import Pattern
from smart_train.checks import check_number
from smart_train.plans import Plan

from .chained import ChainedPruner

BAND = 0.02  # of the budget, within which nothing is asked of the indicators


class DAISPruner(ChainedPruner):
    """Annealing indicators: ``sigmoid(score / T)`` with a falling T, pushed towards the budget by a penalty.

    After Guan et al., "DAIS: Automatic Channel Pruning via Differentiable Annealing Indicator Search" (IEEE TNNLS 2023,
    arXiv 2011.02166), our reading, from a description of others' code. ``T = 1 / (1 + 49 u)`` over the search. The loss
    of the scores has the mean of all indicators, and ``log(kept / budget)`` above the budget or its negative below
    (weights instead of operations), both times ``strength``. Instead of training on two parts of the data in turns,
    every ``every``-th step moves the scores and the others move the weights. The best scores within the budget stay.

    Args:
        strength: of the penalty.
        every: steps from one step of the scores to the next.
        common: the arguments of ``Pruner``.
    """

    title = "DAIS"
    options = ("strength", "every")

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | Plan | None = None,
        sparsity: float | None = None,
        *,
        strength: float = 0.3,
        every: int = 3,
        **common: Any,
    ):
        check_number("strength", strength, least=0)
        check_number("every", every, least=2, whole=True)
        self.strength = strength
        self.every = every
        super().__init__(model, pattern, sparsity, **common)

    def start(self):
        super().start()
        for scores in self.masked.scores():
            scores.add_(2)  # nearly all indicators begin near 1

    def values(self):
        temperature = 1 / (1 + 49 * self.progress)
        return {name: torch.sigmoid(layer.scores / temperature) for name, layer in self.layers.items()}

    def penalty(self):
        if self.stage != "search":
            return 0.0
        kept = self.kept_weights()
        outside = (kept - 1).detach().abs() > BAND
        leaves = torch.cat([leaf.flatten() for leaf in self.leaves.values()])
        return self.strength * (leaves.mean() + outside * kept.log().abs())

    def after_backward(self):
        super().after_backward()
        if self.stage == "search":
            of_scores = self.steps % self.every == 0
            for parameter in self.weights() if of_scores else self.parameters():
                parameter.grad = None  # an optimizer leaves it as it is
