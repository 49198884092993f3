"""Lists and packed blocks of many layers in one launch: what follows from the masks once per optimizer step.

    layer 0   mask, weight  \\                                    / index 0   start end order cols slots, of rows
    layer 1   mask, weight   >  programs: (layer, line | block) <              start end order cols slots, of columns
    layer 2   mask, weight  /                                    \\ packed 0  block (row, col) in slot row * C + col

A row of the table says of each layer what a launch of its own would be given as arguments; layers of one launch have
blocks and tiles per block in common. Block (row, col) of packed stays in its own slot, so the lists of rows and those
of columns, which the gradient of the input walks along, read the same memory.
"""

import triton
import triton.language as tl

from .linear import pack_block, put_in_order
from .live_blocks import block_lives, list_line

# columns of the table
FIELDS = tl.constexpr(16)
WEIGHT, MASK, INDEX, PACKED = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
SIZE_N, TILE_N, STRIDE_N, PARTS_N = tl.constexpr(4), tl.constexpr(5), tl.constexpr(6), tl.constexpr(7)
SIZE_K, TILE_K, STRIDE_K, PARTS_K = tl.constexpr(8), tl.constexpr(9), tl.constexpr(10), tl.constexpr(11)
ROWS, COLUMNS, FIRST_LINE, FIRST_BLOCK = tl.constexpr(12), tl.constexpr(13), tl.constexpr(14), tl.constexpr(15)


@triton.jit
def field(table_ptr, layer, FIELD: tl.constexpr):
    return tl.load(table_ptr + layer * FIELDS + FIELD).to(tl.int32)


@triton.jit
def place(table_ptr, layer, FIELD: tl.constexpr):
    """Load an address, or where a layer begins among all: 64 bits."""
    return tl.load(table_ptr + layer * FIELDS + FIELD)


@triton.jit
def axis_n(table_ptr, layer, TILES: tl.constexpr, BLOCK: tl.constexpr):
    """Return size, tile, stride, parts and number of blocks along N."""
    tile = field(table_ptr, layer, TILE_N) if TILES == 1 else BLOCK // TILES  # a constant where many are divided by it
    return (field(table_ptr, layer, SIZE_N), tile, field(table_ptr, layer, STRIDE_N),
            field(table_ptr, layer, PARTS_N), field(table_ptr, layer, ROWS))


@triton.jit
def axis_k(table_ptr, layer, TILES: tl.constexpr, BLOCK: tl.constexpr):
    """Return size, tile, stride, parts and number of blocks along K."""
    tile = field(table_ptr, layer, TILE_K) if TILES == 1 else BLOCK // TILES
    return (field(table_ptr, layer, SIZE_K), tile, field(table_ptr, layer, STRIDE_K),
            field(table_ptr, layer, PARTS_K), field(table_ptr, layer, COLUMNS))


@triton.jit
def padded(count):
    """Round up to 16 bytes of int32, so that every list of an index begins at a multiple."""
    return (count + 3) // 4 * 4


@triton.jit
def lists_of(index_ptr, table_ptr, layer, rows, columns, of_columns):
    """Return the lists of a layer's rows, or of its columns: start, end, order, cols, slots."""
    lines = padded(tl.where(of_columns, columns, rows))
    entries = padded(rows * columns)
    start = index_ptr + place(table_ptr, layer, INDEX) + tl.where(of_columns, 3 * padded(rows) + 2 * entries, 0)
    return start, start + lines, start + 2 * lines, start + 3 * lines, start + 3 * lines + entries


@triton.jit
def group_lists_kernel(
    # tensors
    mask_ptr, eps_ptr, table_ptr, layers_ptr, index_ptr,
    # compile-time
    TILES_N: tl.constexpr, BLOCK_N: tl.constexpr, TILES_K: tl.constexpr, BLOCK_K: tl.constexpr, CHUNK: tl.constexpr,
):
    """List the live blocks of one block row or block column of one layer."""
    pid = tl.program_id(0)
    layer = tl.load(layers_ptr + pid)
    line = pid - field(table_ptr, layer, FIRST_LINE)
    N, tile_n, stride_n, parts_n, rows = axis_n(table_ptr, layer, TILES_N, BLOCK_N)
    K, tile_k, stride_k, parts_k, columns = axis_k(table_ptr, layer, TILES_K, BLOCK_K)
    mask_p = mask_ptr + place(table_ptr, layer, MASK)
    stride_mask = tl.cdiv(K, tile_k)
    eps = tl.load(eps_ptr + layer)
    start, end, _, cols, slots = lists_of(index_ptr, table_ptr, layer, rows, columns, line >= rows)
    if line < rows:
        list_line(
            mask_p, None, None, start, end, cols, slots,
            line, columns, columns, columns, 1,
            N, K, None, None, stride_mask, 1, 0, 0, eps,
            tile_n, TILES_N, stride_n, parts_n, BLOCK_N, tile_k, TILES_K, stride_k, parts_k, BLOCK_K, CHUNK,
        )
    else:
        list_line(
            mask_p, None, None, start, end, cols, slots,
            line - rows, rows, rows, 1, columns,
            K, N, None, None, 1, stride_mask, 0, 0, eps,
            tile_k, TILES_K, stride_k, parts_k, BLOCK_K, tile_n, TILES_N, stride_n, parts_n, BLOCK_N, CHUNK,
        )


@triton.jit
def group_pack_kernel(
    # tensors
    weight_ptr, mask_ptr, eps_ptr, table_ptr, lines_ptr, layers_ptr, index_ptr, packed_ptr,
    # how many lines are put in order before blocks are packed: all or none
    lines,
    # compile-time
    WIDE: tl.constexpr,
    TILES_N: tl.constexpr, BLOCK_N: tl.constexpr, TILES_K: tl.constexpr, BLOCK_K: tl.constexpr, LINES: tl.constexpr,
):
    """Put one block row or column of one layer in order, or pack one block, if it is live.

    ``weight_ptr`` says the dtype of all weights, which lie where the table says; WIDE: their rows begin at multiples of
    16 bytes.
    """
    pid = tl.program_id(0)
    if pid < lines:
        layer = tl.load(lines_ptr + pid)
        line = pid - field(table_ptr, layer, FIRST_LINE)
        rows, columns = field(table_ptr, layer, ROWS), field(table_ptr, layer, COLUMNS)
        of_columns = line >= rows
        _, end, order, _, _ = lists_of(index_ptr, table_ptr, layer, rows, columns, of_columns)
        line = tl.where(of_columns, line - rows, line)
        put_in_order(line, tl.where(of_columns, columns, rows), tl.where(of_columns, rows, columns), end, order, LINES)
    else:
        layer = tl.load(layers_ptr + pid - lines)
        N, tile_n, stride_n, parts_n, rows = axis_n(table_ptr, layer, TILES_N, BLOCK_N)
        K, tile_k, stride_k, parts_k, columns = axis_k(table_ptr, layer, TILES_K, BLOCK_K)
        slot = pid - lines - field(table_ptr, layer, FIRST_BLOCK)
        row, col = slot // columns, slot % columns
        mask_p = mask_ptr + place(table_ptr, layer, MASK)
        eps = tl.load(eps_ptr + layer)
        stride_mask = tl.cdiv(K, tile_k)
        if block_lives(row, col, mask_p, None, None, N, K, stride_mask, 1, 0, 0, None, None, eps,
                       tile_n, TILES_N, stride_n, parts_n, BLOCK_N, tile_k, TILES_K, stride_k, parts_k, BLOCK_K,
                       False, 1):
            weight_p = place(table_ptr, layer, WEIGHT).to(weight_ptr.dtype)
            stride_w = K
            if WIDE:
                weight_p = tl.multiple_of(weight_p, 16)
                stride_w = tl.multiple_of(K, 128 // weight_ptr.dtype.element_ty.primitive_bitwidth)
            pack_block(
                weight_p, mask_p, None, None, packed_ptr + place(table_ptr, layer, PACKED),
                row, col, slot, N, K, None, None, stride_w, 1, stride_mask, 1, 0, 0, eps,
                tile_n, TILES_N, stride_n, parts_n, BLOCK_N, tile_k, TILES_K, stride_k, parts_k, BLOCK_K, False, False,
            )
