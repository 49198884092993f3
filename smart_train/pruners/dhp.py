"""Latent vectors, shrunk after each step."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_kernels import Pattern
from smart_train.checks import check_number
from smart_train.plans import Plan

from .chained import ChainedPruner

DEAD = 5e-3  # a magnitude below which a channel counts as gone


class DHPPruner(ChainedPruner):
    """DHP: a latent number for each channel, learned with the weights and soft-thresholded after each step.

    After Li et al., "DHP: Differentiable Meta Pruning via HyperNetworks" (ECCV 2020, arXiv 2003.13683), from its code:
    ``z = sign(z) max(|z| - shrinkage, 0)`` after each step, until no more than the budget have ``|z| >= 5e-3``. Our
    reading: the paper's hypernetwork, which generates weights from latent numbers, needs a training from nothing. Here
    they start from the sizes of normal numbers, as there, given to tiles by the order of their magnitudes; trained
    weights are multiplied by what has become of their number over its start, and that is folded into them in the end.
    Tiles and single weights are treated as channels are.

    Args:
        shrinkage: in each step; by default so much that numbers which nothing else moves are within the budget after
            three quarters of the search.
        common: the arguments of ``Pruner``.
    """

    title = "DHP"
    options = ("shrinkage",)
    folds = True
    pace = 0.1

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | Plan | None = None,
        sparsity: float | None = None,
        *,
        shrinkage: float | None = None,
        **common: Any,
    ):
        if shrinkage is not None:
            check_number("shrinkage", shrinkage, least=0)
        super().__init__(model, pattern, sparsity, **common)
        self.first = [torch.ones_like(scores) for scores in self.masked.scores()]
        sparsity = sum(pool.asked for pool in self.pools) / sum(pool.weights for pool in self.pools)
        whole = sizes(torch.tensor([sparsity])).item() / (0.75 * self.lengths.search_steps)
        self.shrinkage = whole if shrinkage is None else shrinkage

    def start(self):
        super().start()
        flat = torch.cat([scores.flatten() for scores in self.masked.scores()])
        ranks = flat.argsort(stable=True).argsort(stable=True)
        numbers = sizes((ranks + 0.5) / len(flat)).split([scores.numel() for scores in self.masked.scores()])
        for place, (scores, part) in enumerate(zip(self.masked.scores(), numbers, strict=True)):
            scores.copy_(part.view_as(scores))
            self.first[place] = scores.detach().clone()

    def values(self):
        return {
            name: layer.scores / first for (name, layer), first in zip(self.layers.items(), self.first, strict=True)
        }

    def state_dict(self):
        return super().state_dict() | {"first": self.first}

    def load_state_dict(self, taken):
        super().load_state_dict(taken)
        self.first = [each.clone() for each in taken["first"]]

    @torch.no_grad()
    def after_step(self):
        if self.stage == "search" and self._alive() > 1:
            for scores in self.masked.scores():
                scores.copy_(F.softshrink(scores, self.shrinkage))

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


def sizes(quantiles: Tensor) -> Tensor:
    """Return the quantiles in (0, 1) of the size of a normal number."""
    return 2**0.5 * torch.erfinv(quantiles)
