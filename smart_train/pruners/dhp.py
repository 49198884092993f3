"""Latent vectors, shrunk after each step."""

from typing import Any

import torch
from torch import nn

from smart_kernels import Pattern

from .chained import ChainedPruner

DEAD = 5e-3  # a magnitude below which a channel counts as gone


class DHPPruner(ChainedPruner):
    """DHP: a latent number for each channel, learned with the weights and soft-thresholded after each step.

    After Li et al., "DHP: Differentiable Meta Pruning via HyperNetworks" (ECCV 2020, arXiv 2003.13683), from its code:
    ``z = sign(z) max(|z| - shrinkage, 0)`` after each step, until no more than the budget have ``|z| >= 5e-3``. Our
    reading: the latent numbers multiply trained weights and are folded into them in the end; the paper's hypernetwork,
    which generates the weights from them, needs a training from nothing. They start from 1 and a little more or less by
    magnitude. Tiles and single weights as channels.

    Args:
        shrinkage: in each step; by default so much that a number which nothing else moves is gone after the search.
        common: the arguments of ``Pruner``.
    """

    title = "DHP"
    options = ("shrinkage",)
    folds = True
    pace = 0.1

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | None = None,
        sparsity: float | None = None,
        *,
        shrinkage: float | None = None,
        **common: Any,
    ):
        if shrinkage is not None and shrinkage < 0:
            raise ValueError(f"shrinkage must be at least 0, got {shrinkage}")
        super().__init__(model, pattern, sparsity, **common)
        self.shrinkage = 1 / self.lengths.search_steps if shrinkage is None else shrinkage

    def start(self):
        super().start()
        for scores in self.masked.scores():
            scores.mul_(0.1).add_(1).clamp_(min=0.1)

    def values(self):
        return {name: layer.scores * 1 for name, layer in self.layers.items()}

    @torch.no_grad()
    def after_step(self):
        if self.stage == "search" and self._alive() > 1:
            for scores in self.masked.scores():
                scores.copy_(torch.nn.functional.softshrink(scores, self.shrinkage))

    def _alive(self) -> float:
        """Return the weights of the numbers that are not gone, over the budget."""
        alive = sum(
            int(cost[(pool.layers[name].scores.abs() >= DEAD).cpu()].sum())
            for pool in self.pools
            for name, cost in pool.costs.items()
        )
        return alive / sum(pool.weights - pool.asked for pool in self.pools)

    def masks(self):
        return {name: mask.abs().clamp_max(1) for name, mask in super().masks().items()}

    @torch.no_grad()
    def settle(self):
        for scores in self.masked.scores():
            scores.abs_()
