"""A pool: scores that compete for one budget.

    layer a   [.7 .1 .9 .3]  \\
    layer b   [.2 .8]         >  RankedPool: one threshold, one budget in weights      Block, Channel
    layer c   [.4 .6 .5]     /

    layer d   [.7 .1 .9 .3]      LocalPool: every row has its threshold and keeps n    NM
              [.2 .8 .4 .6]
"""

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from smart_kernels import GroupGate, SoftGate, soft_topk
from smart_kernels.nn import score_costs
from smart_train import schedule

from .ranks import Ranks
from .sharing import Sharing

Gates = dict[str, SoftGate | GroupGate]


class Pool(ABC):
    """Scores that compete for one budget; the base of the two kinds.

    Attributes:
        sharing: the layers by name, those that share a score tensor together, under the name of the first.
        layers: that first one of each.
        costs: (rows, cols) int64 weights per score, by name.
        weights: their sum.
        asked: how many of them are to be pruned, as asked for.
        everything, target: the budget before anything is pruned and at the end, in scores or in units of ``cost``.
        cost: weights per score in the order of ``_gather``; None where all cost the same.
        threshold: of the last soft top-k, where the next solve starts; None before the first.
    """

    asked: float
    everything: int
    target: int
    cost: Tensor | None = None
    threshold: Tensor | None = None

    def __init__(self, sharing: Sharing, eps: float | None, ranks: Ranks):
        self.sharing = sharing
        self.ranks = ranks
        self._eps = eps
        self.layers = {name: layers[name] for name, layers in sharing.items()}
        self.costs = {name: score_costs(list(layers.values())) for name, layers in sharing.items()}
        self.weights = sum(int(cost.sum()) for cost in self.costs.values())

    @property
    def eps(self) -> float:
        """A tile whose mask is at most this is dead. Equal scores have keep / n everywhere and must stay alive."""
        return min(1e-3, 0.1 * self.target / self.everything) if self._eps is None else self._eps

    def keep(self, u: float, warmup: float = 1.0) -> float:
        """Return the budget at progress ``u`` in [0, 1]: from everything to the target, reached at ``warmup``."""
        return schedule.keep(u, self.everything, self.target, warmup, whole=self.cost is None)

    def soft_gates(self, keep: float, temperature: float, straight_through: bool = False) -> Gates:
        """Return the gates of one soft top-k over the pool.

        They share its threshold, differentiable in all scores of the pool.

        Args:
            keep: the budget, as ``keep()`` gives it; a pool of N:M groups keeps n in each whatever it says.
            temperature: > 0, in units of the scores.
            straight_through: N:M only; multiply by the hard mask, with the gradient of the soft one.
        """
        scores = self.scores()
        _, threshold = self._solve(scores, keep, temperature)
        self.threshold = threshold.detach()
        return self._carrying(scores, self.gates(threshold, temperature, straight_through))

    @torch.no_grad()
    def soft_masks(self, keep: float, temperature: float) -> dict[str, Tensor]:
        """Return (rows, cols) soft masks for the scores as they are now."""
        return self._scatter(self._solve(self.scores(), keep, temperature)[0])

    def scores(self) -> dict[str, Tensor]:
        """Return the scores by layer, whole where this process holds a shard of them; see ``Ranks.whole``."""
        return self.ranks.whole({name: layer.scores for name, layer in self.layers.items()})

    @abstractmethod
    def gates(self, threshold: Tensor | None, temperature: float, straight_through: bool = False) -> Gates:
        """Return the gates for a known threshold."""

    @abstractmethod
    def hard_masks(self, keep: float | None = None) -> dict[str, Tensor]:
        """Return (rows, cols) float32 masks of 0 and 1 that keep the best scores within a budget; None: the target."""

    @abstractmethod
    def _gather(self, scores: dict[str, Tensor]) -> Tensor:
        """Return (..., n) all scores, as ``soft_topk`` takes them."""

    @abstractmethod
    def _scatter(self, mask: Tensor) -> dict[str, Tensor]:
        """Undo ``_gather`` for a mask: (rows, cols) by layer."""

    def _carrying(self, scores: dict[str, Tensor], gates: Gates) -> Gates:
        """Let the gates carry those scores that are not the layers' own, so that the gradient reaches all processes."""
        own = {name: None if scores[name] is layer.scores else scores[name] for name, layer in self.layers.items()}
        return {name: gate if own[name] is None else replace(gate, scores=own[name]) for name, gate in gates.items()}

    def _solve(self, by_layer: dict[str, Tensor], keep: float, temperature: float) -> tuple[Tensor, Tensor]:
        scores = self._gather(by_layer)
        self.cost = None if self.cost is None else self.cost.to(scores)
        start = None if self.threshold is None else self.threshold.to(scores.device)
        return soft_topk(scores, keep, temperature, self.cost, start)
