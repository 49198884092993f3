from dataclasses import dataclass

from smart_kernels.formats import Compact

from .base import Pattern, Storage


@dataclass(frozen=True)
class Channel(Pattern):
    """Whole output channels. Stored as a smaller dense weight.

    Args:
        width: the width of residual streams, too: LayerNorms and RMSNorms are over the live channels while they are
            pruned, and narrower plain ones after ``slim_``. Needs ``example_input``.
    """

    width: bool = False
    name = "channel"
    form = "channel[:width]"
    whole_channels = True

    def __post_init__(self):
        if not isinstance(self.width, bool):
            raise ValueError(f"Channel width must be True or False, got {self.width!r}")

    @classmethod
    def parse(cls, parts):
        if parts not in ([], ["width"]):
            raise cls.unreadable()
        return cls(bool(parts))

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

    def __str__(self):
        return "channel:width" if self.width else "channel"
