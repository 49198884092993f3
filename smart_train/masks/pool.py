"""A pool: scores that compete for one budget.

    layer a   [.7 .1 .9 .3]  \\
    layer b   [.2 .8]         >  RankedPool: one threshold, one budget in weights      Block, Channel
    layer c   [.4 .6 .5]     /

    layer d   [.7 .1 .9 .3]      LocalPool: every row has its threshold and keeps n    NM
              [.2 .8 .4 .6]
"""

from abc import ABC, abstractmethod

from torch import Tensor

from smart_kernels.nn import score_costs
from smart_train import schedule

from .ranks import Ranks
from .sharing import Sharing


class Pool(ABC):
    """Scores that compete for one budget; the base of the two kinds.

    Attributes:
        sharing: the layers by name, those that share a score tensor together, under the name of the first.
        layers: that first one of each.
        costs: (rows, cols) int64 weights per score, by name.
        weights: their sum.
        asked: how many of them are to be pruned, as asked for.
        everything, target: the budget before anything is pruned and at the end, in scores or in units of ``cost``.
        cost: weights per score, in the order of the layers; None where all cost the same.
    """

    asked: float
    everything: int
    target: int
    cost: Tensor | None = None

    def __init__(self, sharing: Sharing, eps: float | None, ranks: Ranks):
        self.sharing = sharing
        self.ranks = ranks
        self._eps = eps
        self.layers = {name: layers[name] for name, layers in sharing.items()}
        self.costs = {name: score_costs(list(layers.values())) for name, layers in sharing.items()}
        self.weights = sum(int(cost.sum()) for cost in self.costs.values())

    @property
    def scored(self) -> int:
        """How many scores there are."""
        return sum(cost.numel() for cost in self.costs.values())

    @property
    def eps(self) -> float:
        """A tile whose mask is at most this is dead. Equal scores have keep / n everywhere and must stay alive."""
        return min(1e-3, 0.1 * self.target / self.everything) if self._eps is None else self._eps

    def keep(self, u: float, warmup: float = 1.0) -> float:
        """Return the budget at progress ``u`` in [0, 1]: from everything to the target, reached at ``warmup``."""
        return schedule.keep(u, self.everything, self.target, warmup, whole=self.cost is None)

    def scores(self) -> dict[str, Tensor]:
        """Return the scores by layer, whole where this process holds a shard of them; see ``Ranks.whole``."""
        return self.ranks.whole({name: layer.scores for name, layer in self.layers.items()})

    @abstractmethod
    def hard_masks(self, keep: float | None = None) -> dict[str, Tensor]:
        """Return (rows, cols) float32 masks of 0 and 1 that keep the best scores within a budget; None: the target."""
