from dataclasses import dataclass

from .base import Pattern


@dataclass(frozen=True)
class Channel(Pattern):
    """Whole output channels. Stored as a smaller dense weight."""

    name = "channel"

    def tile(self, shape):
        return 1, shape.C

    def scores_shape(self, shape):
        return shape.N, 1

    def cost(self, shape):
        return super().cost(shape._replace(taps=1)) * shape.taps

    def tile_values(self, values, shape):
        return values.expand(-1, shape.taps)

    def importance(self, weight):
        return weight.detach().abs().float().mean((1, 2))[:, None]
