"""The best tile of each layer, which hard masks keep whatever it scores: soft masks have to keep it, too."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .ranked import RankedPool

MARGIN = 1.0  # above the threshold, in scores: at the first temperature of a search a mask of .993


class Floor:
    """Lifts the best tile of each layer over the threshold.

    Without it a layer whose tiles are all under the threshold is trained away, and hardening, which keeps its best
    tile, takes that from another layer: with 12 tiles for 8 layers two thirds of the masks changed in the end.

    Args:
        pools: at least one.
    """

    def __init__(self, pools: Sequence[RankedPool]):
        self.places, self.layers, self.pools = _members(pools)
        self.count = int(self.layers.max()) + 1

    def lifted(self, scores: Tensor, threshold: Tensor) -> Tensor:
        """Return the scores with the best of each layer at least ``MARGIN`` above its pool's threshold.

        Args:
            scores: (n,) of all pools.
            threshold: (pools,) float64, the last ones; NaN lifts nothing.
        """
        if self.places.device != scores.device:
            self.places, self.layers, self.pools = (each.to(scores.device) for each in _tensors(self))
        with torch.no_grad():
            own = scores[self.places]
            best = own.new_full((self.count,), -torch.inf).scatter_reduce(0, self.layers, own, "amax")
            missing = (threshold.to(own) + MARGIN)[self.pools] - own
            missing = torch.where((own == best[self.layers]) & (missing > 0), missing, 0.0)
            lift = torch.zeros_like(scores).scatter_reduce(0, self.places, missing, "amax")
        return scores + lift


def _tensors(floor: Floor) -> tuple[Tensor, Tensor, Tensor]:
    return floor.places, floor.layers, floor.pools


def _members(pools: Sequence[RankedPool]) -> tuple[Tensor, Tensor, Tensor]:
    """Return (m,) int64 for each pair of a layer and a tile of it: the tile's place, the layer's and the pool's."""
    found: list[tuple[Tensor, int, int]] = []
    start = layer = 0
    for number, pool in enumerate(pools):
        for name, layers in pool.sharing.items():
            tiles = pool.costs[name].numel()
            for each in layers.values():
                own = torch.arange(tiles) if each.index is None else each.index[each.index >= 0].cpu()
                found.append((own + start, layer, number))
                layer += 1
            start += tiles
    columns = [torch.cat([torch.full_like(each[0], each[k]) for each in found]) for k in (1, 2)]
    return torch.cat([places for places, _, _ in found]), *columns
