"""Gates that polarise."""

from typing import Any

import torch
from torch import nn

from smart_kernels import Pattern
from smart_train.checks import check_number
from smart_train.plans import Plan
from smart_train.schedule import exponential

from .chained import ChainedPruner

EPS = (0.1, 1e-4)  # of the gates, first and last
DEAD = 0.05  # scores below this are set to 0, where gates have no gradient


class GDPPruner(ChainedPruner):
    """Gates that polarise: each becomes 0 or clearly not 0 while the model trains.

    After Guo et al., "GDP: Stabilized Neural Network Pruning via Gates with Differentiable Polarization" (ICCV 2021,
    arXiv 2109.02220), our reading, from the abstract and from memory. A tile is multiplied by
    ``s^2 / (s^2 + eps)`` of its score; eps falls, so gates end at 0 and 1. The loss has ``strength`` times what the
    gates leave above the budget, as a part of it (weights instead of operations). Scores that have become small are set
    to 0 after the step. What is kept is folded into the weights. The paper's own relaxation of the constraint is not
    known to us; the best scores within the budget stay.

    Args:
        strength: of the penalty.
        common: the arguments of ``Pruner``.
    """

    title = "GDP"
    options = ("strength",)
    folds = True
    pace = 0.3

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | Plan | None = None,
        sparsity: float | None = None,
        *,
        strength: float = 1.0,
        **common: Any,
    ):
        check_number("strength", strength, least=0)
        self.strength = strength
        super().__init__(model, pattern, sparsity, **common)

    def start(self):
        super().start()
        for scores in self.masked.scores():  # all gates are open, the order of the magnitudes is kept
            scores.mul_(0.1).add_(1).clamp_(min=0.1)

    def values(self):
        eps = exponential(self.progress, *EPS)
        return {name: polarised(layer.scores, eps) for name, layer in self.layers.items()}

    def penalty(self):
        if self.stage != "search":
            return 0.0
        return self.strength * (self.kept_weights() - 1).clamp_min(0)

    @torch.no_grad()
    def after_step(self):
        if self.stage == "search":
            for scores in self.masked.scores():
                scores[scores.abs() < DEAD] = 0

    @torch.no_grad()
    def settle(self):
        for scores in self.masked.scores():
            scores.abs_()


def polarised(scores: torch.Tensor, eps: float) -> torch.Tensor:
    """Return ``scores^2 / (scores^2 + eps)``."""
    return scores.square() / (scores.square() + eps)
