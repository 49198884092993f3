"""Which layers are alike, so that one of them is measured for all."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from smart_kernels.convert.measure import CLOSE, Choice, Times, pair_ratio
from smart_kernels.formats import Zeros
from smart_kernels.shapes import tiles

DENSITY = 0.02  # densities that differ by less, as a fraction, are equal
LENGTHS = 0.05  # so are lengths of rows, as fractions of a full row
QUARTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Likeness:
    """Everything that the times of a layer depend on.

    Attributes:
        exactly: must be equal: kind, sizes, strides, dtypes and device of the layer and its input, tile and groups.
        density: fraction of the weights that is not 0.
        lengths: quartiles of the rows of tiles, and the live columns, as fractions of what there could be.
    """

    exactly: tuple
    density: float
    lengths: tuple[float, ...]

    def covers(self, other: "Likeness") -> bool:
        """Return whether the other layer takes as long, whatever runs it."""
        if self.exactly != other.exactly or abs(self.density - other.density) > DENSITY * self.density:
            return False
        return all(abs(a - b) <= LENGTHS for a, b in zip(self.lengths, other.lengths, strict=True))


@dataclass(frozen=True)
class Measured:
    """A layer that has been measured: its name, what it is like, its times and who won."""

    name: str
    like: Likeness
    times: Times
    choice: Choice

    def clear(self, dense: tuple[str, ...]) -> bool:
        """Return whether no sparse candidate came so close to the dense one that a little more or less would count."""
        plain = self.times[self.choice.baseline]
        ratios = [pair_ratio(times, plain)[0] for label, times in self.times.items() if label not in dense]
        return not ratios or abs(min(ratios) - 1) >= CLOSE


@dataclass
class Memory:
    """The layers of one model that have been measured and won or lost clearly."""

    measured: list[Measured] = field(default_factory=list)

    def add(self, layer: Measured, dense: tuple[str, ...]) -> None:
        """Keep a layer, unless its choice was a close one."""
        if layer.clear(dense):
            self.measured.append(layer)

    def find(self, like: Likeness) -> Measured | None:
        """Return a layer that takes as long, or None."""
        return next((layer for layer in self.measured if layer.like.covers(like)), None)


def problem_of(layer: nn.Linear | nn.Conv2d, x: Tensor) -> tuple:
    """Say in plain values what the times of a layer without zeros depend on, on the input x."""
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    geometry = tuple(getattr(layer, name, None) for name in names)
    tensors = tuple((tuple(t.shape), t.stride(), str(t.dtype), str(t.device)) for t in (layer.weight, x))
    return type(layer).__name__, geometry, layer.bias is None, *tensors


def likeness(layer: nn.Linear | nn.Conv2d, zeros: Zeros, x: Tensor) -> Likeness:
    """Say what the times of a plain layer with such zeros depend on, on the input x."""
    exactly = (*problem_of(layer, x), zeros.taps, zeros.tile, zeros.groups)
    live = _live(zeros)
    rows = live.float().mean(1)
    quartiles = torch.quantile(rows, rows.new_tensor(QUARTILES))
    lengths = (*quartiles.tolist(), live.any(0).float().mean().item())
    return Likeness(exactly, zeros.weight.ne(0).float().mean().item(), lengths)


def _live(zeros: Zeros) -> Tensor:
    """Return (tile rows, taps * tile columns) bool, where a tile holds a weight that is not 0."""
    live = zeros.weight.ne(0)
    if zeros.tile is None:
        return live
    taps = live.float().unflatten(1, (zeros.taps, -1)).unbind(1)
    return torch.cat([tiles.reduce_sum(tap, zeros.tile) > 0 for tap in taps], 1)
