"""Weights of which every GROUP store KEEP: reading the saved form, and turning its indices into other forms.

    values   a b | c d | ...          W row   . a . b | c . d . | ...      place 0..GROUP-1 in a group
    indices  1 3 | 0 2 | ...          a place holds the value whose index it is, or 0
"""

import triton
import triton.language as tl


@triton.jit
def stored(
    values_ptr, indices_ptr, row0, group0, rows, groups, stride_vn, stride_in,
    KEEP: tl.constexpr, BITS: tl.constexpr, SPAN: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, GROUPS: tl.constexpr,
):
    """Load what a tile of W stores, row after row: the indices of each group, the first in the lowest bits, and a tuple
    of its values; 0 beyond ``rows`` and ``groups``, which EVEN tiles do not reach.

    SPAN bytes hold the indices of a group, wherever in a byte they begin. One dimension: with two, it would depend on
    the compiler whether threads side by side stay in one row.
    """
    offs = tl.arange(0, ROWS * GROUPS)
    row = offs // GROUPS
    group = group0 + offs % GROUPS
    start = tl.cast(row0, tl.int64)
    inside = None if EVEN else (row0 + row < rows) & (group < groups)
    other = None if EVEN else 0
    first = group * (KEEP * BITS)
    index_p = indices_ptr + start * stride_in + (row * stride_in + first // 8)
    code = tl.load(index_p, mask=inside, other=other).to(tl.int32)
    for i in tl.static_range(1, SPAN):
        there = first // 8 + i < stride_in
        if inside is not None:
            there = there & inside
        code |= tl.load(index_p + i, mask=there, other=0).to(tl.int32) << (8 * i)
    value_p = values_ptr + start * stride_vn + (row * stride_vn + group * KEEP)
    values = ()
    for i in tl.static_range(KEEP):
        values += (tl.load(value_p + i, mask=inside, other=other),)
    return code >> (first % 8), values


@triton.jit
def words_of(code, values, KEEP: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr, PLACES: tl.constexpr):
    """Place the weights of each group in words of PLACES, the first in the lowest bits: a tuple of tensors."""
    SIZE: tl.constexpr = values[0].dtype.primitive_bitwidth
    WORD: tl.constexpr = tl.int64 if PLACES * SIZE == 64 else tl.int32
    PIECE: tl.constexpr = tl.uint16 if SIZE == 16 else tl.uint32
    words = ()
    for w in tl.static_range(GROUP // PLACES):
        word = tl.zeros(code.shape, WORD)
        for i in tl.static_range(KEEP):
            index = (code >> (i * BITS)) & ((1 << BITS) - 1)
            placed = values[i].to(PIECE, bitcast=True).to(WORD) << (index % PLACES * SIZE).to(WORD)
            if GROUP > PLACES:  # signs instead of comparisons: predicates would run out
                placed &= (((index // PLACES ^ w) - 1) >> 31).to(WORD)
            word |= placed
        words += (word,)
    return words


@triton.jit
def spread(
    words, SIZE: tl.constexpr, PLACES: tl.constexpr, GROUP: tl.constexpr, FIRST: tl.constexpr, STEP: tl.constexpr,
):
    """Return the bits of the weights FIRST, FIRST + STEP, ... of each group from ``words_of``: (groups * GROUP /
    STEP,)."""
    if STEP == GROUP:
        return (words[FIRST // PLACES] >> (FIRST % PLACES * SIZE)).to(tl.int16 if SIZE == 16 else tl.int32)
    else:
        return tl.interleave(
            spread(words, SIZE, PLACES, GROUP, FIRST, 2 * STEP),
            spread(words, SIZE, PLACES, GROUP, FIRST + STEP, 2 * STEP))


@triton.jit
def tile(
    code, values, KEEP: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr,
    ROWS: tl.constexpr, GROUPS: tl.constexpr,
):
    """Spread what ``stored`` returns out to the (ROWS, GROUPS * GROUP) weights."""
    SIZE: tl.constexpr = values[0].dtype.primitive_bitwidth
    PLACES: tl.constexpr = min(64 // SIZE, GROUP)
    bits = spread(words_of(code, values, KEEP, GROUP, BITS, PLACES), SIZE, PLACES, GROUP, 0, 1)
    return tl.reshape(bits, (ROWS, GROUPS * GROUP)).to(values[0].dtype, bitcast=True)


@triton.jit
def transpose_kernel(
    # tensors
    values_ptr, indices_ptr, values_t_ptr, indices_t_ptr,
    # sizes
    N, K,
    # strides
    stride_vn, stride_in, stride_vk, stride_ik,
    # compile-time
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    """Store 2:4 values and indices of W.T, where both are 2:4: a byte of W.T's indices is eight rows of W."""
    offs_k = tl.program_id(0).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)[:, None]
    octet = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    group, place = offs_k // 4, (offs_k % 4).to(tl.int32)
    code = tl.zeros((BLOCK_K, BLOCK_N), tl.int32)
    for half in tl.static_range(2):
        found = tl.zeros((BLOCK_K, BLOCK_N), tl.int32)
        for i in tl.static_range(4):
            row = octet * 8 + half * 4 + i
            inside = (offs_k < K) & (row < N)
            byte = tl.load(indices_ptr + row * stride_in + group // 2, mask=inside, other=0).to(tl.int32)
            pair = byte >> ((group % 2) * 4).to(tl.int32)
            second = ((pair >> 2) & 3) == place
            hit = inside & (((pair & 3) == place) | second)
            value = tl.load(values_ptr + row * stride_vn + group * 2 + second, mask=hit, other=0.0)
            value_t_p = values_t_ptr + offs_k * stride_vk + (octet * 2 + half) * 2 + found
            tl.store(value_t_p, value, mask=hit & (found < 2))
            code |= tl.where(hit, i << (4 * half + 2 * found), 0)
            found += hit.to(tl.int32)
    tl.store(indices_t_ptr + offs_k * stride_ik + octet, code.to(tl.uint8), mask=(offs_k < K) & (octet * 8 < N))
