"""A mask over the tiles of a weight, stored or soft, and the blocks it leaves alive."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import triton
from torch import Tensor

from smart_kernels.kernels.masked.live_blocks import live_blocks_kernel
from smart_kernels.ops.common.axis import SMALL_TILES, Axis, constants
from smart_kernels.ops.common.launch import NOTHING, TENSOR, Launch, Nothing, given, slot

Settings = tuple[tuple[int, int], float, tuple[int, int]]  # tile, eps, group
CHUNK = 4096  # mask values that a program of live_blocks_kernel looks at together


@dataclass(frozen=True)
class TileMask:
    """One mask value per tile of an (N, K) weight.

    Attributes:
        values: (rows, cols) masks; scores if there is a threshold.
        tile: (tile_n, tile_k).
        eps: tiles with mask <= eps are dead.
        threshold: (row groups, col groups) or None.
        temperature: 0-d or None.
        group: (tile rows, tile columns) that share a threshold.
    """

    values: Tensor
    tile: tuple[int, int]
    eps: float
    threshold: Tensor | None = None
    temperature: Tensor | None = None
    group: tuple[int, int] = (1, 1)

    @property
    def T(self) -> TileMask:
        """The mask of the transposed weight."""
        return replace(
            self,
            values=self.values.T,
            tile=self.tile[::-1],
            threshold=None if self.threshold is None else self.threshold.T,
            group=self.group[::-1],
        )

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """The kernel arguments mask, threshold, temperature."""
        return self.values, self.threshold, self.temperature

    @property
    def given(self) -> tuple[Tensor | Nothing, ...]:
        """The tensors as a plan takes them."""
        return self.values, given(self.threshold), given(self.temperature)

    @property
    def settings(self) -> Settings:
        """All else that a plan follows from."""
        return self.tile, self.eps, self.group

    @classmethod
    def of(
        cls, values: Tensor, threshold: Tensor | Nothing, temperature: Tensor | Nothing, settings: Settings
    ) -> TileMask:
        """Return the mask of ``given`` and ``settings``."""
        tile, eps, group = settings
        if threshold is NOTHING:
            return cls(values, tile, eps)
        return cls(values, tile, eps, threshold, temperature, group)

    @property
    def groups(self) -> tuple[int | None, int | None]:
        """The kernel arguments group_n, group_k; None where one threshold serves all."""
        return self.group if self.threshold is not None and self.threshold.numel() > 1 else (None, None)

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides of mask and threshold."""
        return *self.values.stride(), *((0, 0) if self.threshold is None else self.threshold.stride())

    def axes(self, shape: tuple[int, int]) -> tuple[Axis, Axis]:
        """Return how the weight is cut: into blocks of at most 128 x 64.

        Where a block holds many tiles it is smaller, for each mask value takes a register, and more so where blocks
        reach beyond the edge of the weight, for then each value has a bound of its own.
        """
        if max(self.tile) > max(SMALL_TILES):
            largest = 128, 64
        else:
            largest = (32, 32) if shape[0] % 64 or shape[1] % 64 else (64, 64)
        n, k = (Axis.cut(*args) for args in zip(shape, self.tile, largest, strict=True))
        return n, k


def cut(n: Axis, k: Axis) -> dict[str, int]:
    """Return the compile-time arguments that say how tiles and blocks lie."""
    tiles = {"TILE_N": n.tile, "TILES_N": n.tiles_per_block, "TILE_K": k.tile, "TILES_K": k.tiles_per_block}
    return tiles | constants(n, k)


def lists_launch(mask: TileMask, n: Axis, k: Axis, all_blocks: bool = False) -> Launch:
    """Return the launch that fills start, end and cols, given mask, threshold and temperature before them."""
    tiles = n.tiles_per_block * k.tiles_per_block
    return Launch(
        live_blocks_kernel, (n.blocks,),
        *map(slot, mask.given), TENSOR, TENSOR, TENSOR,
        n.size, k.size, k.blocks, *mask.groups,
        *mask.strides,
        -math.inf if all_blocks else mask.eps,
        **cut(n, k), CHUNK=max(1, min(CHUNK // tiles, triton.next_power_of_2(k.blocks))),
    ).reading(0)  # fmt: skip
