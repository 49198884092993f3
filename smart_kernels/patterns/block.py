from dataclasses import dataclass
from numbers import Integral
from typing import Literal

from .base import Pattern
from .text import integers


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
    form = "block:ROWSxCOLS[:all]"
    example = (32, 32)

    def __post_init__(self):
        if not all(isinstance(size, Integral) and size > 0 for size in (self.rows, self.cols)):
            raise ValueError(f"Block needs positive integers as rows and cols, got {self.rows!r}x{self.cols!r}")
        if self.taps not in ("one", "all"):
            raise ValueError(f"Block taps must be 'one' or 'all', got {self.taps!r}")

    @classmethod
    def parse(cls, parts):
        if len(parts) not in (1, 2):
            raise cls.unreadable()
        sizes = parts[0].split("x")
        if len(sizes) != 2:
            raise ValueError(f"a block must be ROWSxCOLS, such as 32x32, got {parts[0]!r}")
        return cls(*integers(sizes), *parts[1:])

    def tile(self, shape):
        return self.rows, self.cols

    def scores_shape(self, shape):
        return super().scores_shape(shape._replace(taps=1) if self.taps == "all" else shape)

    def tile_values(self, values, shape):
        return values.repeat(1, shape.taps) if self.taps == "all" else values

    def tile_sums(self, per_tile, shape):
        return per_tile.unflatten(1, (shape.taps, -1)).sum(1) if self.taps == "all" else per_tile

    def __str__(self):
        return f"block:{self.rows}x{self.cols}" + (":all" if self.taps == "all" else "")
