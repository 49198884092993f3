"""The soft masks of all tiles that are ranked, whichever pool they compete in, by one soft top-k."""

from collections.abc import Sequence

import torch
from torch import Tensor

from smart_kernels import soft_topk

from .floor import Floor, needs_floor
from .ranked import RankedPool


class Softened:
    """One soft top-k over some pools.

    Args:
        pools: at least one.

    Attributes:
        threshold: (pools,) float64, of the last one, where the next starts; it stays the same tensor, which a CUDA
            graph reads and writes. NaN before the first.
    """

    def __init__(self, pools: Sequence[RankedPool]):
        self.pools = pools
        self.sizes = [pool.scored for pool in pools]
        self.shapes = [(name, cost.shape) for pool in pools for name, cost in pool.costs.items()]
        self.counts = [shape.numel() for _, shape in self.shapes]
        self.threshold = torch.full((len(pools),), torch.nan, dtype=torch.float64)
        costs = [pool.cost for pool in pools]
        some = any(cost is not None for cost in costs)
        self.cost = torch.cat([self._filled(pool) for pool in pools]) if some else None
        self.floor = Floor(pools) if any(map(needs_floor, pools)) else None

    def masks(self, keep: Tensor, temperature: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the masks of all layers in one piece, and as views (rows, cols) by name; differentiable in all scores.

        Args:
            keep: (pools,) float64 budgets, as ``Pool.keep`` gives them.
            temperature: 0-d float64, above 0, in units of the scores.
        """
        flat, threshold = self._solve(keep, temperature)
        with torch.no_grad():
            self.threshold.copy_(threshold)
        return flat, self._by_layer(flat)

    @torch.no_grad()
    def masks_now(self, keep: Tensor, temperature: Tensor) -> dict[str, Tensor]:
        """Return the masks for the scores as they are now, for looking at."""
        return self._by_layer(self._solve(keep, temperature)[0])

    def thresholds(self) -> list[Tensor | None]:
        """Return the last threshold of each pool, None before the first."""
        return [None if value.isnan() else value.clone() for value in self.threshold]

    def start_from(self, thresholds: Sequence[Tensor | None]) -> None:
        """Take up thresholds."""
        values = [torch.nan if value is None else value.item() for value in thresholds]
        self.threshold.copy_(torch.tensor(values, dtype=torch.float64))

    def _solve(self, keep: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        own = {name: layer._parameters["scores"] for pool in self.pools for name, layer in pool.layers.items()}
        scores = torch.cat([each.flatten() for each in self.pools[0].ranks.whole(own).values()])
        if self.threshold.device != scores.device:
            self.threshold = self.threshold.to(scores.device)
        if self.cost is not None:
            self.cost = self.cost.to(scores)
        if self.floor is not None:
            scores = self.floor.lifted(scores, self.threshold)
        return soft_topk(scores, keep, temperature, self.cost, self.threshold, sizes=self.sizes)

    def _by_layer(self, flat: Tensor) -> dict[str, Tensor]:
        return {
            name: part.view(shape) for (name, shape), part in zip(self.shapes, flat.split(self.counts), strict=True)
        }

    @staticmethod
    def _filled(pool: RankedPool) -> Tensor:
        """Return the cost of each score, 1 where all of the pool cost the same."""
        return torch.ones(pool.scored, dtype=torch.int64) if pool.cost is None else pool.cost
