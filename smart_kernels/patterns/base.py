"""What a sparsity pattern has to say about a weight.

    tile    which weights are kept or pruned together    one score each
    group   which tiles compete for the same budget      all of them, or small groups by themselves
    format  how the survivors are stored                 and so which kernel runs at inference

A weight is seen as an (N, taps, C) array: output channels, kernel positions, input channels, with the input channels
next to each other. A Linear has one tap. As a matrix it is (N, K) with K = taps * C.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from smart_kernels.shapes import tiles


class WeightShape(NamedTuple):
    """(N, taps, C): output channels, kernel positions, input channels."""

    N: int
    taps: int
    C: int

    @property
    def numel(self) -> int:
        return self.N * self.taps * self.C


@dataclass(frozen=True)
class Pattern(ABC):
    """Base of all patterns; frozen, hashable, and written as ``str(pattern)``, which ``parse`` reads back."""

    name: ClassVar[str]
    example: ClassVar[tuple] = ()  # arguments that tests and benchmarks build one with
    local: ClassVar[bool] = False  # True: small groups compete among themselves, which fixes the sparsity

    @abstractmethod
    def tile(self, shape: WeightShape) -> tuple[int, int]:
        """(tile_n, tile_c): output and input channels that one score covers, at one tap."""

    @property
    def sparsity(self) -> float | None:
        """The sparsity the pattern implies, or None where the user chooses it."""
        return None

    def scores_shape(self, shape: WeightShape) -> tuple[int, int]:
        """(rows, cols) of the scores; column ``tap * ceil(C / tile_c) + i`` is tile ``i`` of that tap."""
        rows, per_tap = tiles.grid((shape.N, shape.C), self.tile(shape))
        return rows, shape.taps * per_tap

    def cost(self, shape: WeightShape) -> Tensor:
        """(rows, cols) int64: how many real weights each score stands for."""
        return tiles.cost((shape.N, shape.C), self.tile(shape)).repeat(1, shape.taps)

    def tile_values(self, values: Tensor, shape: WeightShape) -> Tensor:
        """Values per score -> values per tile at each tap, (rows, taps * ceil(C / tile_c)). Differentiable."""
        return values

    def expand(self, values: Tensor, shape: WeightShape) -> Tensor:
        """Values per score -> (N, taps, C) values per weight. Differentiable."""
        tile = self.tile(shape)
        rows, per_tap = tiles.grid((shape.N, shape.C), tile)
        per_tile = self.tile_values(values, shape).view(rows, shape.taps, per_tap).transpose(0, 1)
        per_weight = [tiles.expand(v, tile, (shape.N, shape.C)) for v in per_tile]
        return per_weight[0].unsqueeze(1) if shape.taps == 1 else torch.stack(per_weight, 1)

    def importance(self, weight: Tensor) -> Tensor:
        """(N, taps, C) weight -> (rows, cols) mean magnitude of the weights under each score, float32."""
        shape = WeightShape(*weight.shape)
        sums = [tiles.reduce_sum(tap, self.tile(shape)) for tap in weight.detach().abs().float().unbind(1)]
        return torch.cat(sums, 1) / self.cost(shape).to(weight.device)

    def __str__(self) -> str:
        return self.name


def check_pattern(pattern: object) -> None:
    """Raise ``ValueError`` for anything but a pattern, such as the name of one."""
    if not isinstance(pattern, Pattern):
        raise ValueError(f"pattern must be one such as Block(32, 32) or parse('block:32x32'), got {pattern!r}")
