"""Where blocks lie along an axis: block i starts at (i // PARTS) * STRIDE + (i % PARTS) * BLOCK.

Tiles of any size STRIDE are cut into PARTS blocks of BLOCK elements, a power of two; the last part of a tile may be
shorter. STRIDE and PARTS are compile-time numbers, but where one launch serves many layers.
"""

import triton
import triton.language as tl


@triton.jit
def block_start(i, STRIDE, PARTS, BLOCK: tl.constexpr):
    """Return the first element of block i."""
    return (i // PARTS) * STRIDE + (i % PARTS) * BLOCK


@triton.jit
def block_limit(i, size, STRIDE, PARTS):
    """Return the first element after the tile of block i."""
    return tl.minimum((i // PARTS + 1) * STRIDE, size)


@triton.jit
def inside(position, size):
    """Return whether 0 <= position < size, in one comparison."""
    return position.to(tl.uint32, bitcast=True) < tl.cast(size, tl.uint32)  # a size of 1 is compiled in: no tensor
