from dataclasses import dataclass

from smart_kernels.formats import Compact

from .base import Pattern, Storage


@dataclass(frozen=True)
class Channel(Pattern):
    """Whole output channels. Stored as a smaller dense weight."""

    name = "channel"
    form = "channel"
    whole_channels = True

    def tile(self, shape):
        return 1, shape.C

    def storage(self, shape):
        return Storage(Compact)

    def scores_shape(self, shape):
        return shape.N, 1

    def tile_values(self, values, shape):
        return values.expand(-1, shape.taps)

    def tile_sums(self, per_tile, shape):
        return per_tile.sum(1, keepdim=True)
