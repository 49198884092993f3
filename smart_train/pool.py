"""A pool: scores that compete for one budget. ``pools.py`` has the two kinds."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from smart_kernels import GroupGate, Masked, SoftGate, soft_topk
from smart_kernels.nn import score_costs

from . import schedule

Sharing = dict[str, dict[str, Masked]]


class Pool(ABC):
    """Scores that compete for one budget.

    Attributes:
        sharing: the layers by name, those that share a score tensor together, under the name of the first.
        layers: that first one of each.
        costs: (rows, cols) int64 weights per score, by name.
        weights: their sum.
        asked: how many of them are to be pruned, as asked for.
        everything, target: what the soft mask keeps before and after the warm-up, in scores or in units of ``cost``.
        cost: weights per score in the order of ``gather``; None where all cost the same.
        threshold: of the last step, where the next solve starts; None before the first.
    """

    asked: float
    everything: int
    target: int
    cost: Tensor | None = None
    threshold: Tensor | None = None

    def __init__(self, sharing: Sharing, eps: float | None):
        self.sharing, self._eps = sharing, eps
        self.layers = {name: layers[name] for name, layers in sharing.items()}
        self.costs = {name: score_costs(list(layers.values())) for name, layers in sharing.items()}
        self.weights = sum(int(cost.sum()) for cost in self.costs.values())

    @property
    def eps(self) -> float:
        """A tile whose mask is at most this is dead. Equal scores have keep / n everywhere and must stay alive."""
        return min(1e-3, 0.1 * self.target / self.everything) if self._eps is None else self._eps

    def keep(self, u: float, warmup: float) -> float:
        """What the soft mask keeps at progress ``u``."""
        return schedule.keep(u, self.everything, self.target, warmup, whole=self.cost is None)

    def soft_gates(self, keep: float, temperature: float) -> dict[str, SoftGate | GroupGate]:
        """One soft top-k over the pool. The gates share its threshold, differentiable in all scores of the pool."""
        _, threshold = self._solve(keep, temperature)
        self.threshold = threshold.detach()
        return self.gates(threshold, temperature)

    @torch.no_grad()
    def soft_masks(self, keep: float, temperature: float) -> dict[str, Tensor]:
        """(rows, cols) soft masks for the scores as they are now."""
        return self._scatter(self._solve(keep, temperature)[0])

    @abstractmethod
    def gates(self, threshold: Tensor | None, temperature: float) -> dict[str, SoftGate | GroupGate]:
        """The gates for a known threshold."""

    @abstractmethod
    def hard_masks(self) -> dict[str, Tensor]:
        """(rows, cols) float32 masks of 0 and 1."""

    @abstractmethod
    def _gather(self) -> Tensor:
        """(..., n) all scores, as ``soft_topk`` takes them."""

    @abstractmethod
    def _scatter(self, mask: Tensor) -> dict[str, Tensor]:
        """The inverse of ``_gather``, for a mask: (rows, cols) by layer."""

    def _solve(self, keep: float, temperature: float) -> tuple[Tensor, Tensor]:
        scores = self._gather()
        self.cost = None if self.cost is None else self.cost.to(scores)
        start = None if self.threshold is None else self.threshold.to(scores.device)
        return soft_topk(scores, keep, temperature, self.cost, start)
