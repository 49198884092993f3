"""Tiles that are ranked against each other: ``Block``, ``Channel``."""

import torch

from smart_kernels.patterns import allowed_weights, keep_best

from .pool import Pool
from .ranks import Ranks
from .sharing import Sharing


class RankedPool(Pool):
    """Tiles of one or more layers, ranked against each other; see ``keep_best`` for the rule.

    Raises:
        ValueError: the budget is smaller than the smallest tile of each layer together.
    """

    def __init__(self, sharing: Sharing, sparsity: float, eps: float | None, ranks: Ranks):
        super().__init__(sharing, eps, ranks)
        self.asked = sparsity * self.weights
        self.budget = allowed_weights(sparsity, self.weights)
        floor = sum(int(cost.min()) for cost in self.costs.values())
        if floor > self.budget:
            raise ValueError(
                f"the budget must hold a tile of each of {', '.join(sharing)}, together {floor} weights, "
                f"got {self.budget} of {self.weights} at sparsity {sparsity}"
            )
        cost = torch.cat([cost.flatten() for cost in self.costs.values()])
        self._unit = int(cost[0])  # weights that a unit of keep stands for
        if (cost == self._unit).all():
            self.everything = cost.numel()
            self.target = self.budget // self._unit
        else:
            self._unit = 1
            self.cost = cost
            self.everything = self.weights
            self.target = self.budget

    def hard_masks(self, keep=None):
        scores = list(self.scores().values())
        owners = [[layer.index for layer in layers.values()] for layers in self.sharing.values()]
        budget = self.budget if keep is None else int(keep * self._unit)
        return dict(zip(self.layers, keep_best(scores, list(self.costs.values()), budget, owners), strict=True))
