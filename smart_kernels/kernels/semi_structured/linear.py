"""y = activation(x @ W.T + bias + residual), where every GROUP weights of W store KEEP of them; the portable form.

    values   a b | c d | ...          W row   . a . b | c . d . | ...      place 0..GROUP-1 in a group
    indices  1 3 | 0 2 | ...          a place holds the value whose index it is, or 0

The weight is spread out in registers, tile by tile and group by group, from the saved form, and goes into a dense
product: any KEEP of any GROUP, any dtype, any GPU. Saves memory, not arithmetic. TRANSPOSED multiplies by W instead of
W.T.
"""

import triton
import triton.language as tl

from smart_kernels.kernels.common.epilogue import activate
from smart_kernels.kernels.common.tuning import autotune

CONFIGS = [  # the first is valid for every shape
    triton.Config({"BLOCK_M": 16, "BLOCK_O": 32, "BLOCK_R": 64}, num_warps=4, num_stages=2),
    triton.Config({"BLOCK_M": 16, "BLOCK_O": 64, "BLOCK_R": 64}, num_warps=8, num_stages=2),
    triton.Config({"BLOCK_M": 64, "BLOCK_O": 64, "BLOCK_R": 32}, num_warps=8, num_stages=2),
    triton.Config({"BLOCK_M": 64, "BLOCK_O": 64, "BLOCK_R": 64}, num_warps=8, num_stages=2),
    triton.Config({"BLOCK_M": 128, "BLOCK_O": 64, "BLOCK_R": 64}, num_warps=8, num_stages=2),
]
WORDS = tl.constexpr(8)  # words of indices in a tile of the form for few rows


def worth_trying(configs, args, **kwargs):
    """No blocks taller than M; where fp32 is exact, tall ones are shallow: its operands pass through registers."""
    exact = args["x_ptr"].element_size() == 4 and kwargs["PRECISION"] == "ieee"
    found = []
    for config in configs:
        m, r = config.kwargs["BLOCK_M"], config.kwargs["BLOCK_R"]
        if m <= args["M_CLASS"] and (m == 16 or exact == (r == 32)):
            found.append(config)
    return found


@triton.jit
def stored(
    values_ptr, indices_ptr, row0, group0, rows, groups, stride_vn, stride_in,
    KEEP: tl.constexpr, BITS: tl.constexpr, SPAN: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, GROUPS: tl.constexpr,
):
    """What a tile of W stores, row after row: the indices of each group, the first in the lowest bits, and a tuple of
    its values; 0 beyond ``rows`` and ``groups``, which EVEN tiles do not reach.

    SPAN bytes hold the indices of a group, wherever in a byte they begin. One dimension: with two, it would depend on
    the compiler whether threads side by side stay in one row.
    """
    offs = tl.arange(0, ROWS * GROUPS)
    row, group, start = offs // GROUPS, group0 + offs % GROUPS, tl.cast(row0, tl.int64)
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
    """The weights of each group, the first in the lowest bits, PLACES in a word: a tuple of tensors."""
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
    """The bits of the weights FIRST, FIRST + STEP, ... of each group, from ``words_of``: (groups * GROUP / STEP,)."""
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
    """What ``stored`` returns -> the (ROWS, GROUPS * GROUP) weights."""
    SIZE: tl.constexpr = values[0].dtype.primitive_bitwidth
    PLACES: tl.constexpr = min(64 // SIZE, GROUP)
    bits = spread(words_of(code, values, KEEP, GROUP, BITS, PLACES), SIZE, PLACES, GROUP, 0, 1)
    return tl.reshape(bits, (ROWS, GROUPS * GROUP)).to(values[0].dtype, bitcast=True)


@autotune(
    CONFIGS, ["M_CLASS", "OUT", "SIZE", "KEEP", "GROUP", "TRANSPOSED", "EVEN", "PRECISION"],
    worth_trying)
@triton.jit
def semi_structured_kernel(
    # tensors; bias and residual may be None
    x_ptr, values_ptr, indices_ptr, bias_ptr, residual_ptr, y_ptr,
    # sizes: of y (M, OUT), and how many products each of its sums has
    M, OUT, SIZE,
    # strides
    stride_xm, stride_xr, stride_vn, stride_in, stride_rm, stride_ro, stride_ym,
    # scalars; M_CLASS is M rounded, for the choice of the config
    M_CLASS,
    # compile-time
    KEEP: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr, SPAN: tl.constexpr,
    TRANSPOSED: tl.constexpr, EVEN: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_R: tl.constexpr,
):
    # eight blocks of M side by side share the weights in L2
    pid, blocks_o = tl.program_id(0), tl.cdiv(OUT, BLOCK_O)
    pid_m, pid_o = tl.swizzle2d(pid // blocks_o, pid % blocks_o, tl.cdiv(M, BLOCK_M), blocks_o, 8)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_o = pid_o * BLOCK_O + tl.arange(0, BLOCK_O)
    in_o = offs_o < OUT
    # rows beyond M repeat the last one: they are not stored
    x_p = x_ptr + tl.minimum(offs_m, M - 1).to(tl.int64)[:, None] * stride_xm

    # the tiles of W that a program reads: row and group of the first, and how far the next one lies
    ROWS: tl.constexpr = BLOCK_R if TRANSPOSED else BLOCK_O
    GROUPS: tl.constexpr = (BLOCK_O if TRANSPOSED else BLOCK_R) // GROUP
    NEXT_ROW: tl.constexpr = ROWS if TRANSPOSED else 0
    NEXT_GROUP: tl.constexpr = 0 if TRANSPOSED else GROUPS
    row0, group0 = (0, pid_o * GROUPS) if TRANSPOSED else (pid_o * ROWS, 0)
    rows, groups = (SIZE, tl.cdiv(OUT, GROUP)) if TRANSPOSED else (OUT, tl.cdiv(SIZE, GROUP))

    # two steps ahead what a tile of W stores is loaded, one step ahead it is spread out, beside the products
    steps = tl.cdiv(SIZE, BLOCK_R)
    last = tl.maximum(steps - 1, 0)
    code, values = stored(
        values_ptr, indices_ptr, row0, group0, rows, groups, stride_vn, stride_in,
        KEEP, BITS, SPAN, EVEN, ROWS, GROUPS)
    w = tile(code, values, KEEP, GROUP, BITS, ROWS, GROUPS)
    ahead = tl.minimum(1, last)
    code, values = stored(
        values_ptr, indices_ptr, row0 + ahead * NEXT_ROW, group0 + ahead * NEXT_GROUP, rows, groups,
        stride_vn, stride_in, KEEP, BITS, SPAN, EVEN, ROWS, GROUPS)
    acc = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
    for e in range(0, steps):
        offs_r = e * BLOCK_R + tl.arange(0, BLOCK_R)
        in_x = None if EVEN else (offs_r < SIZE)[None, :]
        x = tl.load(x_p + offs_r.to(tl.int64)[None, :] * stride_xr, mask=in_x, other=None if EVEN else 0.0)
        ahead = tl.minimum(e + 2, last)
        next_code, next_values = stored(
            values_ptr, indices_ptr, row0 + ahead * NEXT_ROW, group0 + ahead * NEXT_GROUP, rows, groups,
            stride_vn, stride_in, KEEP, BITS, SPAN, EVEN, ROWS, GROUPS)
        acc = tl.dot(x, w if TRANSPOSED else tl.trans(w), acc, input_precision=PRECISION)
        w = tile(code, values, KEEP, GROUP, BITS, ROWS, GROUPS)
        code, values = next_code, next_values

    if bias_ptr is not None:
        acc += tl.load(bias_ptr + offs_o, mask=in_o, other=0.0).to(tl.float32)[None, :]
    offs_m = offs_m.to(tl.int64)
    in_y = (offs_m < M)[:, None] & in_o[None, :]
    if residual_ptr is not None:
        residual_p = residual_ptr + offs_m[:, None] * stride_rm + offs_o.to(tl.int64)[None, :] * stride_ro
        acc += tl.load(residual_p, mask=in_y, other=0.0).to(tl.float32)
    acc = activate(acc, ACTIVATION)
    y_p = y_ptr + offs_m[:, None] * stride_ym + offs_o[None, :]
    tl.store(y_p, acc.to(y_ptr.dtype.element_ty), mask=in_y)


@triton.jit
def decode_words_kernel(
    # tensors
    indices_ptr, words_ptr,
    # sizes: all words, words and groups of a row
    SIZE, width, groups,
    # strides
    stride_in,
    # compile-time
    BLOCK: tl.constexpr,
):
    """2:4 indices -> a bit per place, eight groups that lie 32 columns apart in each word."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offs < SIZE
    row, column = offs // width, offs % width
    word = tl.zeros((BLOCK,), tl.int32)
    for h in tl.static_range(8):
        group = column // WORDS * (8 * WORDS) + h * WORDS + column % WORDS
        there = inside & (group < groups)
        byte = tl.load(indices_ptr + row * stride_in + group // 2, mask=there, other=0).to(tl.int32)
        pair = byte >> ((group % 2) * 4).to(tl.int32)
        occupied = (1 << (pair & 3)) | (1 << ((pair >> 2) & 3))
        word |= tl.where(there, occupied, 0) << (4 * h)
    tl.store(words_ptr + offs, word, mask=inside)


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
    """2:4 values and indices of W.T, where both are 2:4: a byte of W.T's indices is eight rows of W."""
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
