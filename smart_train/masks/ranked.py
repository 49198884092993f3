"""Tiles that are ranked against each other: ``Block``, ``Channel``."""

import torch
from torch import Tensor

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
        self._take(self.costs, allowed_weights(sparsity, self.weights), f"{self.weights} at sparsity {sparsity}")

    def _take(self, prices: dict[str, Tensor], budget: int, of: str) -> None:
        """Take up a budget, and what each tile takes of it by layer, both whole numbers."""
        self.prices = prices
        self.budget = budget
        floor = sum(int(price.min()) for price in prices.values())
        if floor > budget:
            raise ValueError(
                f"the budget must hold a tile of each of {', '.join(prices)}, together {floor} weights, "
                f"got {budget} of {of}"
            )
        cost = torch.cat([price.flatten() for price in prices.values()])
        self._unit = int(cost[0])  # what a unit of keep stands for
        if (cost == self._unit).all():
            self.everything = cost.numel()
            self.target = budget // self._unit
        else:
            self._unit = 1
            self.cost = cost
            self.everything = int(cost.sum())
            self.target = budget

    def hard_masks(self, keep=None):
        scores = list(self.scores().values())
        owners = [[layer.index for layer in layers.values()] for layers in self.sharing.values()]
        budget = self.budget if keep is None else int(keep * self._unit)
        return dict(zip(self.layers, keep_best(scores, list(self.prices.values()), budget, owners), strict=True))
