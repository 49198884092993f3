"""Layers that are pruned as a plan says: what they share is what the plan is about, time for example."""

import torch

from smart_kernels.patterns import allowed_weights
from smart_train.plans import Plan

from .pool import Pool
from .ranked import RankedPool
from .ranks import Ranks
from .sharing import Sharing

RESOLUTION = 1000  # prices are whole numbers up to this
MOST = 0.5  # fraction of the budget that a correction may add or take: further away the slope is another


class PlannedPool(RankedPool):
    """Tiles of several layers, ranked against each other, at the price that a weight of their layer has in the plan.

    The budget is what the planned densities cost at these prices, and with them the search begins. A layer may then
    keep more than planned where another keeps less, and what the plan limits stays what it is, as far as it grows with
    the weights in a straight line.

    Raises:
        ValueError: the budget does not hold a tile of each layer.
    """

    def __init__(self, sharing: Sharing, plan: Plan, eps: float | None, ranks: Ranks):
        Pool.__init__(self, sharing, eps, ranks)
        layers = {name: plan.pruned[name] for name in sharing}
        sizes = {name: int(cost.sum()) for name, cost in self.costs.items()}
        kept = {name: allowed_weights(1 - layer.density, sizes[name]) for name, layer in layers.items()}
        self._densities = {name: count / sizes[name] for name, count in kept.items()}
        self.asked = self.weights - sum(kept.values())
        largest = max(layer.price for layer in layers.values())
        self._worth = largest / RESOLUTION  # of a unit of the budget, in what the plan limits
        whole = {name: _whole(layer.price, largest) for name, layer in layers.items()}
        prices = {name: cost * whole[name] for name, cost in self.costs.items()}
        self._take(prices, sum(whole[name] * count for name, count in kept.items()), f"the plan for {plan.target}")

    @property
    def spends(self) -> float:
        """Return what the budget stands for, in what the plan limits."""
        return self._worth * self.budget

    @torch.no_grad()
    def start_scores_(self) -> None:
        """Shift the scores of each layer so that those within its planned density are the ones above 0."""
        for name, layer in self.layers.items():
            scores = layer.scores.flatten()
            count = min(len(scores) - 1, round(self._densities[name] * len(scores)))
            best = scores.sort(descending=True).values
            layer.scores.sub_((best[count - 1] + best[count]) / 2 if count else best[0])

    def afford(self, more: float) -> None:
        """Change what the next hard masks may cost by so much of what the plan limits, by half of the budget at most.

        Nothing changes where weights cost nothing.
        """
        if self.spends > 0:
            change = max(-MOST, min(MOST, more / self.spends))
            floor = sum(int(price.max()) for price in self.prices.values())
            self.budget = max(min(floor, self.budget), round(self.budget * (1 + change)))


def _whole(price: float, largest: float) -> int:
    """Return a price as a whole number from 1 to ``RESOLUTION``; 1 where weights cost nothing anywhere."""
    return max(1, round(RESOLUTION * price / largest)) if largest > 0 else 1
