"""Values of a packed 2:4 matrix, fetched where its metadata says; layouts in mma.py.

    from a dense matrix of its shape       what training fetches from dy.T @ x
    from its transpose, packed as well     W.T from W after every step: the places stay, the values change

A program fetches 64 rows x 64 columns, 2048 values that lie in 4 pieces (FRAGMENTS) or 64 (rows).
"""

import triton
import triton.language as tl

PIECE = tl.constexpr(2048)


@triton.jit
def places(meta_ptr, row, group, steps):
    """Return the two places of four columns of a row, two bits each. ``steps`` of 64 columns make a row."""
    word = ((row // 64) * steps + group // 16) * 128 + row % 64 // 16 * 32 + row % 8 * 4 + group % 16 // 4
    return (tl.load(meta_ptr + word) >> (row % 16 // 8 * 16 + group % 4 * 4).to(tl.int32)) & 15


@triton.jit
def address(row, group, steps, FRAGMENTS: tl.constexpr):
    """Return where the first of two values is."""
    if FRAGMENTS:
        lane = row % 8 * 4 + group % 4
        return ((row // 16) * (2 * steps) + group // 8) * 256 + lane * 8 + group % 8 // 4 * 4 + row % 16 // 8 * 2
    else:
        return row * (32 * steps) + 2 * group


@triton.jit
def sparse_gather_kernel(
    # tensors; source_meta serves PACKED
    source_ptr, source_meta_ptr, meta_ptr, values_ptr,
    # sizes: of the matrix; steps of 64 columns in a row of the packed source
    rows, columns, source_steps,
    # strides, of a dense source
    stride_sn, stride_sk,
    # compile-time
    PACKED: tl.constexpr, FRAGMENTS: tl.constexpr,
):
    PIECES: tl.constexpr = 4 if FRAGMENTS else 64
    piece = tl.arange(0, PIECES)[:, None]
    j = tl.arange(0, PIECE // PIECES)[None, :]
    if FRAGMENTS:
        row = piece * 16 + j // 32 % 8 + j // 2 % 2 * 8
        group = j // 256 * 8 + j // 8 % 4 + j // 4 % 2 * 4
    else:
        row = piece + j * 0
        group = piece * 0 + j // 2
    n64 = tl.program_id(0).to(tl.int64)
    k64 = tl.program_id(1)
    steps = tl.num_programs(1)
    row, group = n64 * 64 + row, k64 * 16 + group
    column = group * 4 + ((places(meta_ptr, row, group, steps) >> (j % 2 * 2)) & 3)
    inside = (row < rows) & (column < columns)
    if PACKED:  # there, row and column change roles
        column = column.to(tl.int64)
        pair = places(source_meta_ptr, tl.where(inside, column, 0), tl.where(inside, row // 4, 0), source_steps)
        value_p = source_ptr + address(column, row // 4, source_steps, FRAGMENTS) + ((pair >> 2) == row % 4)
    else:
        value_p = source_ptr + row * stride_sn + column.to(tl.int64) * stride_sk
    value = tl.load(value_p, mask=inside, other=0.0)
    if FRAGMENTS:
        at = (n64 * 4 + piece) * (512 * steps) + k64 * 512 + j
    else:
        at = (n64 * 64 + piece) * (32 * steps) + k64 * 32 + j
    tl.store(values_ptr + at, value)
