"""The product of blocks, and where they lie along an axis.

Block i starts at (i // PARTS) * STRIDE + (i % PARTS) * BLOCK.

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


@triton.jit
def add_product(acc, x, w, W_LEFT: tl.constexpr, PRECISION: tl.constexpr):
    """Return acc + x @ w for sums of y (M, N), or, with W on the left, for those of y.T (N, M)."""
    if W_LEFT:
        return tl.dot(w.T, x.T, acc, input_precision=PRECISION)
    else:
        return tl.dot(x, w, acc, input_precision=PRECISION)
