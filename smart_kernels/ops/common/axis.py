"""Tiles of any size, cut into the power-of-two blocks a kernel works on."""

from dataclasses import dataclass

import triton

SMALL_TILES = (1, 2, 4, 8)  # tl.dot needs 16: several such tiles share a block


@dataclass(frozen=True)
class Axis:
    """One axis of a tiled matrix.

    Block ``i`` starts at ``(i // parts) * stride + (i % parts) * block`` and covers what is left of its tile, at
    most ``block`` elements. A block never straddles a tile boundary, except that it holds ``block // tile`` whole
    tiles where the tile is smaller than what ``tl.dot`` takes.

    Attributes:
        size: elements along the axis.
        tile: elements that one mask value covers.
        block: elements one program (or loop step) works on, a power of two >= 16.
        stride: distance between the starts of two runs of ``parts`` blocks.
        parts: blocks per run.
    """

    size: int
    tile: int
    block: int
    stride: int
    parts: int

    @classmethod
    def cut(cls, size: int, tile: int, largest: int) -> "Axis":
        """Choose the block for tiles of ``tile`` elements, at most ``largest`` (a power of two >= 16)."""
        if tile in SMALL_TILES:
            block = min(largest, max(16, triton.next_power_of_2(size)))
            return cls(size, tile, block, block, 1)
        if tile >= size:  # one tile: nothing to straddle
            block = min(largest, max(16, triton.next_power_of_2(size)))
            return cls(size, tile, block, block, 1)
        divisor = tile & -tile
        if divisor >= 16:
            block = min(largest, divisor)
            return cls(size, tile, block, block, 1)
        block = min(largest, max(16, triton.next_power_of_2(tile)))
        return cls(size, tile, block, tile, triton.cdiv(tile, block))

    @classmethod
    def separate(cls, size: int, tile: int, largest: int, least: int = 16) -> "Axis":
        """Choose blocks of one tile each, however small: ``parts`` of at least ``least`` elements for every tile."""
        divisor = tile & -tile
        block = min(largest, divisor if divisor >= least else max(least, triton.next_power_of_2(tile)))
        return cls(size, tile, block, tile, triton.cdiv(tile, block))

    @property
    def blocks(self) -> int:
        """The number of blocks that cover the axis."""
        return -(-self.size // self.stride) * self.parts

    @property
    def whole_blocks(self) -> int:
        """The number of blocks if the last tile were a whole one, so that all tiles have ``blocks_per_tile``."""
        return triton.cdiv(self.size, self.tile) * self.blocks_per_tile if self.blocks_per_tile > 1 else self.blocks

    @property
    def tiles_per_block(self) -> int:
        return self.block // self.tile if self.tile in SMALL_TILES else 1

    @property
    def blocks_per_tile(self) -> int:
        """The number of blocks that share one mask value; edge tiles may have fewer."""
        if self.tile in SMALL_TILES:
            return 1
        return self.parts if self.parts > 1 else triton.cdiv(min(self.tile, self.size), self.stride)

    @property
    def even(self) -> bool:
        """Whether every block is full, so that loads need no mask."""
        return self.stride == self.block * self.parts and self.size % self.stride == 0


def constants(n: Axis, k: Axis) -> dict[str, int]:
    """Return the compile-time arguments that say how the blocks of a weight lie."""
    return {
        f"{name}_{letter}": value
        for letter, axis in (("N", n), ("K", k))
        for name, value in (("STRIDE", axis.stride), ("PARTS", axis.parts), ("BLOCK", axis.block))
    }
