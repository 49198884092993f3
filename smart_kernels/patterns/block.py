from dataclasses import dataclass
from numbers import Integral
from typing import Literal

from .base import Pattern


@dataclass(frozen=True)
class Block(Pattern):
    """Rectangular blocks of output x input channels, ranked against all others. Stored as block compressed rows.

    Args:
        rows: output channels per block.
        cols: input channels per block.
        taps: ``"one"``, each kernel position of a convolution has its own blocks, or ``"all"``, a block is kept or
            pruned at all kernel positions together.
    """

    rows: int
    cols: int
    taps: Literal["one", "all"] = "one"
    name = "block"
    example = (32, 32)

    def __post_init__(self):
        if not all(isinstance(size, Integral) and size > 0 for size in (self.rows, self.cols)):
            raise ValueError(f"Block needs positive integers as rows and cols, got {self.rows!r}x{self.cols!r}")
        if self.taps not in ("one", "all"):
            raise ValueError(f"Block taps must be 'one' or 'all', got {self.taps!r}")

    def tile(self, shape):
        return self.rows, self.cols

    def scores_shape(self, shape):
        return super().scores_shape(self._scored(shape))

    def cost(self, shape):
        return super().cost(self._scored(shape)) * (shape.taps if self.taps == "all" else 1)

    def tile_values(self, values, shape):
        return values.repeat(1, shape.taps) if self.taps == "all" else values

    def importance(self, weight):
        if self.taps == "one":
            return super().importance(weight)
        return super().importance(weight.detach().abs().mean(1, keepdim=True))

    def _scored(self, shape):
        return shape._replace(taps=1) if self.taps == "all" else shape

    def __str__(self):
        return f"block:{self.rows}x{self.cols}" + (":all" if self.taps == "all" else "")
