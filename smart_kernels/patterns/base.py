"""The three answers of a sparsity pattern, and nobody outside of this folder asks which pattern it is.

    tile      which weights are kept or pruned together    one score each
    group     which tiles compete for the same budget      all of them, or small groups by themselves
    storage   how the survivors are stored                 and so which kernel runs at inference

A weight is seen as an (N, taps, C) array: output channels, kernel positions, input channels, with the input channels
next to each other. A Linear has one tap. As a matrix it is (N, K) with K = taps * C.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from smart_kernels.formats import BSR, Format, Groups
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
class Storage:
    """How the survivors of a pattern are stored.

    Attributes:
        format: the class that stores them and nothing else.
        options: keyword arguments of its ``from_dense``.
        tile: (tile_n, tile_c) of which all or nothing is kept, where formats of tiles can hold the weight, else None.
        groups: the n:m that formats of groups can hold the weight as, else None.
        note: a few words for the report where something is missing.
    """

    format: type[Format]
    options: dict = field(default_factory=dict)
    tile: tuple[int, int] | None = None
    groups: Groups | None = None
    note: str = ""


@dataclass(frozen=True)
class Pattern(ABC):
    """Base of all patterns; frozen, hashable, and written as ``str(pattern)``, which ``parse`` reads back.

    A new one is a subclass with ``name``, ``form`` and ``tile``, and a line in ``PATTERNS``. What it does not override
    is that of tiles which are ranked against all others and stored as block compressed rows. Where a score stands for
    several tiles, it says which by ``scores_shape``, ``tile_values`` and ``tile_sums``.

    Attributes:
        name: what its text begins with.
        form: how its text is written, for messages and help.
        example: arguments that tests and benchmarks build one with.
        whole_channels: a score stands for an output channel with its bias. Such channels can be coupled between layers,
            masked behind a BatchNorm, and removed from the model.
        width: of whole channels, those that run through a LayerNorm or RMSNorm, too.
    """

    name: ClassVar[str]
    form: ClassVar[str]
    example: ClassVar[tuple] = ()
    whole_channels: ClassVar[bool] = False
    width: ClassVar[bool] = False

    @classmethod
    def parse(cls, parts: list[str]) -> "Pattern":
        """Read the parts of a text behind the name; the default takes none.

        Raises:
            ValueError: the parts are not of this ``form``.
        """
        if parts:
            raise cls.unreadable()
        return cls()

    @classmethod
    def unreadable(cls) -> ValueError:
        """Return the error for parts that are too many, too few or unknown."""
        return ValueError(f"must be written {cls.form}")

    @abstractmethod
    def tile(self, shape: WeightShape) -> tuple[int, int]:
        """Return (tile_n, tile_c): output and input channels that one score covers, at one tap."""

    @property
    def group(self) -> tuple[int, int] | None:
        """Return (rows, columns) of scores that compete among themselves; None where all compete with all."""
        return None

    @property
    def local(self) -> bool:
        """Return whether small groups compete among themselves, which fixes the sparsity."""
        return self.group is not None

    @property
    def sparsity(self) -> float | None:
        """Return the sparsity the pattern implies, or None where the user chooses it."""
        return None

    def storage(self, shape: WeightShape) -> Storage:
        """Return how what is kept of a weight is stored."""
        return Storage(BSR, tile=self.tile(shape))

    def fits(self, shape: WeightShape) -> bool:
        """Return whether a weight has at least one whole tile, and so is pruned where nobody says which are."""
        tile_n, tile_c = self.tile(shape)
        return tile_n <= shape.N and tile_c <= shape.C

    def scores_shape(self, shape: WeightShape) -> tuple[int, int]:
        """Return (rows, cols) of the scores; column ``tap * ceil(C / tile_c) + i`` is tile ``i`` of that tap."""
        rows, per_tap = tiles.grid((shape.N, shape.C), self.tile(shape))
        return rows, shape.taps * per_tap

    def cost(self, shape: WeightShape) -> Tensor:
        """Return (rows, cols) int64: how many real weights each score stands for."""
        return self.tile_sums(tiles.cost((shape.N, shape.C), self.tile(shape)).repeat(1, shape.taps), shape)

    def tile_values(self, values: Tensor, shape: WeightShape) -> Tensor:
        """Turn values per score into values per tile at each tap, (rows, taps * ceil(C / tile_c)). Differentiable."""
        return values

    def is_per_tile(self, shape: WeightShape) -> bool:
        """Return whether values per score are values per tile as they are."""
        rows, cols = self.scores_shape(shape)
        values = torch.arange(rows * cols).view(rows, cols)
        return torch.equal(self.tile_values(values, shape), values)

    def tile_sums(self, per_tile: Tensor, shape: WeightShape) -> Tensor:
        """Sum values per tile into values per score, (rows, cols): the transpose of ``tile_values``."""
        return per_tile

    def expand(self, values: Tensor, shape: WeightShape) -> Tensor:
        """Turn values per score into (N, taps, C) values per weight. Differentiable."""
        tile = self.tile(shape)
        rows, per_tap = tiles.grid((shape.N, shape.C), tile)
        per_tile = self.tile_values(values, shape).view(rows, shape.taps, per_tap).transpose(0, 1)
        per_weight = [tiles.expand(v, tile, (shape.N, shape.C)) for v in per_tile]
        return per_weight[0].unsqueeze(1) if shape.taps == 1 else torch.stack(per_weight, 1)

    def importance(self, weight: Tensor) -> Tensor:
        """Return (rows, cols) mean magnitude of the weights (N, taps, C) under each score, float32."""
        shape = WeightShape(*weight.shape)
        sums = [tiles.reduce_sum(tap, self.tile(shape)) for tap in weight.detach().abs().float().unbind(1)]
        return self.tile_sums(torch.cat(sums, 1), shape) / self.cost(shape).to(weight.device)

    def __str__(self) -> str:
        return self.name


def check_pattern(pattern: object) -> None:
    """Raise ``ValueError`` for anything but a pattern, such as the name of one."""
    if not isinstance(pattern, Pattern):
        raise ValueError(f"pattern must be one such as Block(32, 32) or parse('block:32x32'), got {pattern!r}")
