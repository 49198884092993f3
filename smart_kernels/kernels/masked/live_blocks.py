"""Which blocks of a masked weight are live, as one list per block row.

           block columns                      cols, C entries per block row
         +---+---+---+---+                   +---+---+---+---+
    row  | . | # | . | # |   a block is live | 1 | 3 |   |   |   end - start = 2
         | # | . | . | . |   if one of its   | 0 |   |   |   |                 1
         +---+---+---+---+   tiles is > eps  +---+---+---+---+

Work then loops over the list: no branch on the mask in a loop, no host synchronisation. The mask is either stored or
``sigmoid((score - threshold) / temperature)``, computed where it is used; ``threshold_ptr`` is None if it is stored.
"""

import triton
import triton.language as tl

from smart_kernels.kernels.common.blocks import block_limit, block_start


@triton.jit
def block_span(i, size, STRIDE, PARTS, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    """Return the elements of block i, and which of them belong to it; EVEN: all, known while compiling."""
    offs = block_start(i, STRIDE, PARTS, BLOCK) + tl.arange(0, BLOCK)
    inside = tl.full((BLOCK,), 1, tl.int1) if EVEN else offs < block_limit(i, size, STRIDE, PARTS)
    return offs, inside


@triton.jit
def of_elements(value, BLOCK: tl.constexpr, GROUP: tl.constexpr):
    """Return what each element of GROUP blocks has from its block; of one block the number, to be broadcast."""
    if GROUP == 1:
        return value
    else:
        return tl.reshape(tl.broadcast_to(value[:, None], (GROUP, BLOCK)), (GROUP * BLOCK,))


@triton.jit
def element_tiles(i, TILE, TILES: tl.constexpr, STRIDE, PARTS, BLOCK: tl.constexpr, GROUP: tl.constexpr):
    """Return the tile of each element of block i; a single entry, to be broadcast, where all share one.

    Of several blocks, which have a tile each, ``i`` is that of each element.
    """
    start = block_start(i, STRIDE, PARTS, BLOCK)
    if GROUP > 1:
        return start // TILE
    elif TILES == 1:
        return start // TILE + tl.arange(0, 1)
    else:
        return (start + tl.arange(0, BLOCK)) // TILE


@triton.jit
def tiles_of(start, TILE, TILES: tl.constexpr, GROUP: tl.constexpr):
    """Return the tiles of the block that starts there, or the tile of each of several blocks."""
    if GROUP > 1:
        return start // TILE
    else:
        return start // TILE + tl.arange(0, TILES)


@triton.jit
def load_mask(mask_ptr, threshold_ptr, temperature_ptr, tile_n, tile_k, inside,
              stride_maskn, stride_maskk, stride_tn, stride_tk, group_n, group_k):
    """Load the mask values of the tiles tile_n x tile_k, fp32; 0 where not inside."""
    offs = tile_n.to(tl.int64)[:, None] * stride_maskn + tile_k[None, :] * stride_maskk
    value = tl.load(mask_ptr + offs, mask=inside, other=0.0)
    if threshold_ptr is not None:
        threshold = tl.load(threshold_ptr)
        if group_n is not None:
            t_offs = (tile_n // group_n)[:, None] * stride_tn + (tile_k // group_k)[None, :] * stride_tk
            threshold = tl.load(threshold_ptr + t_offs, mask=inside, other=0.0)
        # finite, so that infinite scores stay pinned: inf - inf would be NaN
        threshold = threshold.to(tl.float64)
        threshold = tl.where(threshold == float("inf"), 1e300, threshold)
        threshold = tl.where(threshold == float("-inf"), -1e300, threshold)
        # fp64: the difference is small against both and is divided by a small number
        z = (value.to(tl.float64) - threshold) * (1 / tl.load(temperature_ptr).to(tl.float64))
        value = tl.where(inside, tl.sigmoid(z.to(tl.float32)), 0.0)
    return value.to(tl.float32)


@triton.jit
def is_live(mask, eps):
    """Return whether a mask value is above eps; NaN is live, so that it stays visible."""
    return (mask <= eps) == 0


@triton.jit
def block_lives(row, col, mask_ptr, threshold_ptr, temperature_ptr, N, K,
                stride_maskn, stride_maskk, stride_tn, stride_tk, group_n, group_k, eps,
                TILE_N, TILES_N: tl.constexpr, STRIDE_N, PARTS_N, BLOCK_N: tl.constexpr,
                TILE_K, TILES_K: tl.constexpr, STRIDE_K, PARTS_K, BLOCK_K: tl.constexpr,
                DEAD_GRAD: tl.constexpr, GROUP: tl.constexpr):
    """Return whether there is something to compute for the block: it has a live tile, or DEAD_GRAD; and it exists.

    Of several blocks, with an entry each in ``col``, all have one tile.
    """
    start_n = block_start(row, STRIDE_N, PARTS_N, BLOCK_N)
    start_k = block_start(col, STRIDE_K, PARTS_K, BLOCK_K)
    exists = (start_n < N) & (start_k < K)
    if DEAD_GRAD:
        return exists
    else:
        tile_n, tile_k = tiles_of(start_n, TILE_N, TILES_N, 1), tiles_of(start_k, TILE_K, TILES_K, GROUP)
        in_tile = (tile_n * TILE_N < N)[:, None] & (tile_k * TILE_K < K)[None, :]
        mask = load_mask(mask_ptr, threshold_ptr, temperature_ptr, tile_n, tile_k, in_tile,
                         stride_maskn, stride_maskk, stride_tn, stride_tk, group_n, group_k)
        live = tl.max((in_tile & is_live(mask, eps)).to(tl.int32), 0)
        return exists & ((live if GROUP > 1 else tl.max(live, 0)) > 0)


@triton.jit
def list_line(
    # tensors of the layer; slots may be None
    mask_ptr, threshold_ptr, temperature_ptr, start_ptr, end_ptr, cols_ptr, slots_ptr,
    # the line, how many blocks it has, how many entries it owns, slots from one line and one block to the next
    line, count, room, slot_line, slot_block,
    # sizes, tiles per group, strides: along the lines, along the blocks of a line
    A, B, group_a, group_b, stride_maska, stride_maskb, stride_ta, stride_tb,
    eps,
    TILE_A, TILES_A: tl.constexpr, STRIDE_A, PARTS_A, BLOCK_A: tl.constexpr,
    TILE_B, TILES_B: tl.constexpr, STRIDE_B, PARTS_B, BLOCK_B: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """List the live blocks of one line of blocks, a row or a column, in order; CHUNK of them are looked at together."""
    # the first element of each tile of the block
    offs_a = block_start(line, STRIDE_A, PARTS_A, BLOCK_A) + tl.arange(0, TILES_A) * TILE_A
    own = line.to(tl.int64) * room
    length = 0
    for first in range(0, count, CHUNK):
        i = tl.arange(0, CHUNK * TILES_B)
        offs_b = block_start(first + i // TILES_B, STRIDE_B, PARTS_B, BLOCK_B) + i % TILES_B * TILE_B
        inside = (offs_a < A)[:, None] & (offs_b < B)[None, :]
        mask = load_mask(mask_ptr, threshold_ptr, temperature_ptr, offs_a // TILE_A, offs_b // TILE_B, inside,
                         stride_maska, stride_maskb, stride_ta, stride_tb, group_a, group_b)
        live = tl.max((inside & is_live(mask, eps)).to(tl.int32), axis=0)
        live = tl.max(tl.reshape(live, (CHUNK, TILES_B)), axis=1)
        block = first + tl.arange(0, CHUNK)
        place = own + length + tl.cumsum(live, axis=0) - live
        tl.store(cols_ptr + place, block, mask=live != 0)
        if slots_ptr is not None:
            tl.store(slots_ptr + place, line * slot_line + block * slot_block, mask=live != 0)
        length += tl.sum(live)
    tl.store(start_ptr + line, own)
    tl.store(end_ptr + line, own + length)


@triton.jit
def live_blocks_kernel(
    # tensors: inputs, then outputs
    mask_ptr, threshold_ptr, temperature_ptr, start_ptr, end_ptr, cols_ptr,
    # sizes of the weight, block columns, tiles per group
    N, K, C, group_n, group_k,
    # strides
    stride_maskn, stride_maskk, stride_tn, stride_tk,
    # scalars
    eps,
    # compile-time
    TILE_N: tl.constexpr, TILES_N: tl.constexpr, STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr, BLOCK_N: tl.constexpr,
    TILE_K: tl.constexpr, TILES_K: tl.constexpr, STRIDE_K: tl.constexpr, PARTS_K: tl.constexpr, BLOCK_K: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """List the live blocks of one block row."""
    list_line(
        mask_ptr, threshold_ptr, temperature_ptr, start_ptr, end_ptr, cols_ptr, None,
        tl.program_id(0), C, C, 0, 0,
        N, K, group_n, group_k, stride_maskn, stride_maskk, stride_tn, stride_tk, eps,
        TILE_N, TILES_N, STRIDE_N, PARTS_N, BLOCK_N, TILE_K, TILES_K, STRIDE_K, PARTS_K, BLOCK_K, CHUNK,
    )
