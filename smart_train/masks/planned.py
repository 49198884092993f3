"""Layers that are pruned as a plan says: what they share is what the plan is about, time for example."""

from smart_kernels.patterns import allowed_weights
from smart_train.plans import Plan

from .pool import Pool
from .ranked import RankedPool
from .ranks import Ranks
from .sharing import Sharing

RESOLUTION = 1000  # prices are whole numbers up to this


class PlannedPool(RankedPool):
    """Tiles of several layers, ranked against each other, at the price that a weight of their layer has in the plan.

    The budget is what the planned densities cost at these prices. So a layer may keep more than planned where another
    keeps less, and what the plan limits stays what it is, as far as it grows with the weights in a straight line.

    Raises:
        ValueError: the budget does not hold a tile of each layer.
    """

    def __init__(self, sharing: Sharing, plan: Plan, eps: float | None, ranks: Ranks):
        Pool.__init__(self, sharing, eps, ranks)
        layers = {name: plan.pruned[name] for name in sharing}
        sizes = {name: int(cost.sum()) for name, cost in self.costs.items()}
        kept = {name: allowed_weights(1 - layer.density, sizes[name]) for name, layer in layers.items()}
        self.asked = self.weights - sum(kept.values())
        whole = _whole({name: layer.price for name, layer in layers.items()})
        prices = {name: cost * whole[name] for name, cost in self.costs.items()}
        self._take(prices, sum(whole[name] * count for name, count in kept.items()), f"the plan for {plan.target}")


def _whole(prices: dict[str, float]) -> dict[str, int]:
    """Return prices as whole numbers from 1 to ``RESOLUTION``; all 1 where weights cost nothing anywhere."""
    largest = max(prices.values())
    return {name: max(1, round(RESOLUTION * price / largest)) if largest > 0 else 1 for name, price in prices.items()}
