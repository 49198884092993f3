"""The best tile of each layer, which hard masks keep whatever it scores: soft masks have to keep it, too."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .ranked import RankedPool

FEW = 32  # tiles kept of a layer, in the mean: with more no layer has been seen to lose them all
MARGIN = 1.0  # above the threshold, in scores: at the first temperature of a search a mask of .993


def needs_floor(pool: RankedPool) -> bool:
    """Return whether several layers compete for so few tiles that one may lose them all."""
    layers = sum(map(len, pool.sharing.values()))
    return layers > 1 and pool.scored * pool.target < FEW * layers * pool.everything


class Floor:
    """Lifts the best tile of each layer over the threshold.

    Without it a layer whose tiles are all under the threshold is trained away, and hardening, which keeps its best
    tile, takes that from another layer: with 12 tiles for 8 layers a third of them changed in the end.

    Args:
        pools: at least one.
    """

    def __init__(self, pools: Sequence[RankedPool]):
        self.places, self.layers, self.pools = _members(pools)
        self.count = int(self.layers.max()) + 1
        scored = sum(pool.scored for pool in pools)
        self.plain = self.places.equal(torch.arange(scored))  # each tile is of one layer, in their order
        self.zero = torch.zeros(())

    def lifted(self, scores: Tensor, threshold: Tensor) -> Tensor:
        """Return the scores with the best of each layer at least ``MARGIN`` above its pool's threshold.

        Args:
            scores: (n,) of all pools.
            threshold: (pools,) float64, the last ones; NaN lifts nothing.
        """
        if self.zero.device != scores.device:
            for name in ("places", "layers", "pools", "zero"):
                setattr(self, name, getattr(self, name).to(scores.device))
        with torch.no_grad():  # few kernels, whatever the number of layers
            own = scores.detach() if self.plain else scores.index_select(0, self.places)
            best = own.new_full((self.count,), -torch.inf).scatter_reduce_(0, self.layers, own, "amax")
            missing = torch.add(threshold.index_select(0, self.pools), own, alpha=-1).add_(MARGIN)
            missing = torch.fmax(missing, self.zero).mul_(own == best.index_select(0, self.layers)).to(own)
            if not self.plain:
                missing = torch.zeros_like(scores).scatter_reduce_(0, self.places, missing, "amax")
        return scores + missing


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
