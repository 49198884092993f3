"""The steps of a row of stored tiles, as ``block_gather_kernel`` and ``block_decode_kernel`` walk them.

A step is BLOCK_K deep and made of pieces, each a stored tile or, where PARTS_K > 1, one of the PARTS_K parts of a tile.
"""

import triton
import triton.language as tl

from smart_kernels.kernels.common.blocks import block_limit


@triton.jit
def listed(entry, end, cols_ptr, slots_ptr, PARTS_K: tl.constexpr):
    """Return the block column and the stored tile of each entry; an entry beyond the row repeats its last one."""
    tile = tl.minimum(entry, end - 1) // PARTS_K
    return tl.load(cols_ptr + tile), tile if slots_ptr is None else tl.load(slots_ptr + tile)


@triton.jit
def columns_of(col, in_tile, offs_k, TILE_K: tl.constexpr, PIECE: tl.constexpr):
    """Return where the pieces of a step start in K, and the columns of its elements.

    The hints state what is always so; the compiler for AMD does not see it behind loaded indices.
    """
    k0 = tl.max_constancy(col * TILE_K + in_tile, PIECE)
    k = tl.max_contiguous(k0 + offs_k % PIECE, PIECE)
    return k0, tl.multiple_of(k, PIECE) if TILE_K % PIECE == 0 else k


@triton.jit
def in_step(entry, end, k0, k, col, K, TILE_K: tl.constexpr, EVEN_K: tl.constexpr, WHOLE: tl.constexpr):
    """Return which elements of a step exist.

    Pieces beyond the end of the row do not. Where all others are whole, nothing else is asked; where those at the edge
    of K are missing as a whole, the start of a piece decides; else each column.
    """
    if EVEN_K:
        return entry < end
    elif WHOLE:
        return (entry < end) & (k0 < K)
    else:
        return (entry < end) & (k < block_limit(col, K, TILE_K, 1))


@triton.jit
def rows_of_tile(pid_n, TILE_N: tl.constexpr, PARTS_N: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return the rows of the stored tile that a program reads; those beyond its end start over and are not stored."""
    return (pid_n % PARTS_N * BLOCK_N + tl.arange(0, BLOCK_N)) % TILE_N
