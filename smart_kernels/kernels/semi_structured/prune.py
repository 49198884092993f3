"""Prune to 2:4 and pack in one pass: each weight is read once, and 9/16 of it written; both ways for W and W.T.

    w    3  9  1  4 | 7  7  2  0        values   9 4 | 7 7        the two of largest score, ties by place
                                        indices  1 3 | 0 1

A thread has whole groups of four, split into four tensors: no data moves between threads before the result is stored.
"""

from itertools import combinations, product

import triton
import triton.language as tl

INF = tl.constexpr(float("inf"))
PINNED = tl.constexpr(1e6)  # what an infinite score counts
PAIRS = tuple(combinations(range(4), 2))
# which pair is kept in each of four rows, where every column is kept twice; and as 16 bits, row after row
MASKS = tl.constexpr(tuple(
    (*rows, sum(1 << (4 * i + column) for i in range(4) for column in PAIRS[rows[i]]))
    for rows in product(range(6), repeat=4)
    if all(sum(column in PAIRS[pair] for pair in rows) == 2 for column in range(4))
))
COUNT = tl.constexpr(len(MASKS.value))


@triton.jit
def quarters(t):
    """Split (R, 4 C) into four (R, C): the first, second, third and fourth of each group."""
    t = t.reshape(t.shape[0], t.shape[1] // 4, 2, 2)
    even, odd = tl.split(t)
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def importance(weight, scores_ptr, offsets, inside):
    """Return the fp32 scores of weights, magnitudes without scores. NaN counts as infinite; beyond the edge it is
    -inf."""
    if scores_ptr is None:
        scores = tl.abs(weight.to(tl.float32))
    else:
        scores = tl.load(scores_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    return tl.where(inside, tl.where(scores == scores, scores, INF), -INF)


@triton.jit
def pick(w, keep0, keep1, keep2, keep3):
    """Return two values of four and the four bits that say which."""
    first = tl.where(keep0, w[0], tl.where(keep1, w[1], w[2]))
    second = tl.where(keep3, w[3], tl.where(keep2, w[2], w[1]))
    code = tl.where(keep0, 0, tl.where(keep1, 1, 2)) + tl.where(keep3, 12, tl.where(keep2, 8, 4))
    return first, second, code


@triton.jit
def store_row(values_ptr, indices_ptr, first, second, code, rows, groups, N, G, stride_v, stride_i):
    """Store two (R, C) values and their code for the groups (R, 1) x (1, C) of a saved form."""
    R: tl.constexpr = first.shape[0]
    C: tl.constexpr = first.shape[1]
    places = groups * 2 + tl.arange(0, 2 * C)[None, :]
    inside = (rows < N) & (places < 2 * G)
    tl.store(values_ptr + rows * stride_v + places, tl.join(first, second).reshape(R, 2 * C), mask=inside)
    code = tl.where(groups + tl.arange(0, C)[None, :] < G, code, 0)
    low, high = tl.split(code.reshape(R, C // 2, 2))
    places = groups // 2 + tl.arange(0, C // 2)[None, :]
    inside = (rows < N) & (places < tl.cdiv(G, 2))
    tl.store(indices_ptr + rows * stride_i + places, (low + high * 16).to(tl.uint8), mask=inside)


@triton.jit
def prune_kernel(
    # tensors; scores may be None
    weight_ptr, scores_ptr, values_ptr, indices_ptr,
    # sizes
    N, K, G,
    # strides
    stride_w, stride_v, stride_i,
    # compile-time: rows and groups of a program
    BLOCK_N: tl.constexpr, BLOCK_G: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    group = tl.program_id(1) * BLOCK_G
    cols = group * 4 + tl.arange(0, 4 * BLOCK_G)[None, :]
    offsets = rows * stride_w + cols
    inside = (rows < N) & (cols < K)
    weight = tl.load(weight_ptr + offsets, mask=inside, other=0.0)            # (BLOCK_N, 4 BLOCK_G)
    s0, s1, s2, s3 = quarters(importance(weight, scores_ptr, offsets, inside))

    b01, b02, b03 = (s0 >= s1).to(tl.int32), (s0 >= s2).to(tl.int32), (s0 >= s3).to(tl.int32)
    b12, b13, b23 = (s1 >= s2).to(tl.int32), (s1 >= s3).to(tl.int32), (s2 >= s3).to(tl.int32)
    # each pair is compared once, b12: 1 beats 2; a weight that is beaten at most once is kept
    first, second, code = pick(
        quarters(weight), b01 + b02 + b03 >= 2, b12 + b13 >= 1 + b01, b23 >= b02 + b12, b03 + b13 + b23 <= 1)
    store_row(values_ptr, indices_ptr, first, second, code, rows, group, N, G, stride_v, stride_i)


@triton.jit
def prune_both_ways_kernel(
    # tensors; scores may be None
    weight_ptr, scores_ptr, values_ptr, indices_ptr, values_t_ptr, indices_t_ptr,
    # sizes, divisible by 4
    N, K,
    # strides
    stride_w, stride_v, stride_i, stride_vt, stride_it,
    # compile-time: 4x4 blocks of a program
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    block_n, block_k = tl.program_id(0).to(tl.int64) * BLOCK_N, tl.program_id(1).to(tl.int64) * BLOCK_K
    blocks = block_n + tl.arange(0, BLOCK_N)[:, None]
    cols = block_k * 4 + tl.arange(0, 4 * BLOCK_K)[None, :]
    w = ()
    sums = ()  # of each pair in each row; float64, so that a pinned score does not hide the others
    for i in tl.static_range(4):
        offsets = (blocks * 4 + i) * stride_w + cols
        inside = (blocks * 4 + i < N) & (cols < K)
        row = tl.load(weight_ptr + offsets, mask=inside, other=0.0)           # (BLOCK_N, 4 BLOCK_K)
        scores = importance(row, scores_ptr, offsets, inside)
        s0, s1, s2, s3 = quarters(tl.minimum(tl.maximum(scores, -PINNED), PINNED).to(tl.float64))
        w += (quarters(row),)
        sums += ((s0 + s1, s0 + s2, s0 + s3, s1 + s2, s1 + s3, s2 + s3),)

    most = tl.full((BLOCK_N, BLOCK_K), -INF, tl.float64)
    best = tl.zeros((BLOCK_N, BLOCK_K), tl.int32)
    for number in tl.static_range(COUNT):
        upper = sums[0][MASKS[number][0]] + sums[1][MASKS[number][1]]
        total = upper + (sums[2][MASKS[number][2]] + sums[3][MASKS[number][3]])
        better = total > most
        most = tl.where(better, total, most)
        best = tl.where(better, MASKS[number][4], best)

    for i in tl.static_range(4):
        row = best >> (4 * i)
        first, second, code = pick(w[i], (row & 1) != 0, (row & 2) != 0, (row & 4) != 0, (row & 8) != 0)
        store_row(values_ptr, indices_ptr, first, second, code, blocks * 4 + i, block_k, N, K // 4, stride_v, stride_i)
    rows = (block_k + tl.arange(0, BLOCK_K)[:, None]) * 4                     # of W.T
    for j in tl.static_range(4):
        column = best >> j
        first, second, code = pick(
            (w[0][j], w[1][j], w[2][j], w[3][j]),
            (column & 1) != 0, (column & 16) != 0, (column & 256) != 0, (column & 4096) != 0)
        store_row(values_t_ptr, indices_t_ptr, tl.trans(first), tl.trans(second), tl.trans(code), rows + j, block_n,
                  K, N // 4, stride_vt, stride_it)
