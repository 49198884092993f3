"""Pruning little by little, by magnitude."""

from typing import Any

from torch import nn

from smart_kernels import Pattern
from smart_train.checks import check_number
from smart_train.plans import Plan

from .spreading import SpreadingPruner


class GradualPruner(SpreadingPruner):
    """Gradual magnitude pruning: every few steps the smallest tiles are masked, as far as the budget of then asks.

    After Zhu and Gupta, "To prune, or not to prune" (arXiv 1710.01878). What is kept falls from everything to the
    target with the cube of what is left of the search. Masks are made anew from the weights as they are then. A masked
    weight gets no gradient, but it is kept beside its mask (weight decay and momentum still move it), so a tile comes
    back when the others have become smaller than it.

    Our reading: a tile is scored by its mean magnitude, standardised over its layer, as in one-shot pruning here. N:M
    groups keep m, then fewer, then n.

    Args:
        every: steps from one choice of masks to the next.
        common: the arguments of ``SpreadingPruner``, whose "uniform" is as in the paper.
    """

    title = "gradual magnitude"
    options = ("every", "spread")

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | Plan | None = None,
        sparsity: float | None = None,
        *,
        every: int = 10,
        **common: Any,
    ):
        check_number("every", every, least=1, whole=True)
        self.every = every
        super().__init__(model, pattern, sparsity, **common)

    def search(self):
        if (self.steps - self.lengths.dense_steps - 1) % self.every == 0:
            self.start()
            self.masked.set_masks(self.masked.hard_masks(self.progress))

    def harden(self):
        if self.stage == "search":
            self.start()
        super().harden()
