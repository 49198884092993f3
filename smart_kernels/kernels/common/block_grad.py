"""dW = dy.T @ x for the blocks of W that exist, several of one block row in each program.

         | x  x  x |              WIDTH columns of x: GROUP blocks of a row, wherever they lie
      ---+---------+
    dy.T | #  #  # | BLOCK_N      dy is read once for all of them

For each multiplication L2 delivers 1 / BLOCK_K elements of dy and 1 / BLOCK_N of x if a program has one block, with
several blocks 1 / WIDTH and 1 / BLOCK_N. Blocks beyond the end of a row are not read: their columns of x are zeros.
"""

import triton
import triton.language as tl

from .blocks import block_limit, block_start
from .tuning import KEY, autotune, holds, wgmma

CONFIGS = [  # the first is valid for every shape
    triton.Config({"BLOCK_M": 16, "WIDTH": 16}, num_warps=4, num_stages=2, maxnreg=255),
    triton.Config({"BLOCK_M": 32, "WIDTH": 16}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_M": 64, "WIDTH": 16}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_M": 64, "WIDTH": 256}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_M": 64, "WIDTH": 256}, num_warps=8, num_stages=3),
]
GRAD_KEY = [*KEY, "EVEN_N", "EVEN_K", "WHOLE_COPIES"]


def worth_trying(configs, args, **kwargs):
    """Keep what the device holds; several blocks where wgmma reads them as copied, four warps for each 64 rows."""
    return held(configs, args, kwargs, args["longest"], lambda config: max(4, kwargs["BLOCK_N"] // 16))


def held(configs, args, kwargs, longest: int, warps, sums: int = 128):
    """Return the configurations of a gradient no deeper than M whose step the device holds; else the first.

    Args:
        longest: the most blocks of a row.
        warps: from a configuration of several blocks to the warps that it must have.
        sums: how many of them a thread may hold.
    """
    n, k, size = kwargs["BLOCK_N"], kwargs["BLOCK_K"], args["x_ptr"].element_size()
    copied = wgmma() and size == 2 and kwargs["WHOLE_COPIES"] and kwargs["EVEN_K"]
    found = []
    for config in configs:
        m = config.kwargs["BLOCK_M"]
        blocks = max(1, config.kwargs["WIDTH"] // k)
        several = copied and blocks <= longest and config.num_warps == warps(config)
        limit = 128 if blocks == 1 else sums
        fits = holds(config, (n, blocks * k, m), size, kwargs["PRECISION"], limit, transposed=True)
        if m <= args["M_CLASS"] and fits and (several or blocks == 1):
            found.append(config)
    return found or configs[:1]


@autotune(CONFIGS, [*GRAD_KEY, "longest"], worth_trying)
@triton.jit
def block_grad_kernel(
    # tensors
    dy_ptr, x_ptr, start_ptr, end_ptr, cols_ptr, dw_ptr,
    # sizes
    M, N, K,
    # strides
    stride_dym, stride_dyn, stride_xm, stride_xk,
    # scalars; M_CLASS is M rounded, for the choice of the config; no row has more blocks than the longest
    M_CLASS, longest,
    # compile-time; WHOLE_COPIES: blocks and rows lie so that each copy may have 16 bytes
    STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr, STRIDE_K: tl.constexpr, PARTS_K: tl.constexpr,
    EVEN_N: tl.constexpr, EVEN_K: tl.constexpr, WHOLE_COPIES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WIDTH: tl.constexpr,
):
    GROUP: tl.constexpr = WIDTH // BLOCK_K if WIDTH > BLOCK_K else 1
    COLUMNS: tl.constexpr = GROUP * BLOCK_K
    groups = tl.cdiv(longest, GROUP)
    pid = tl.program_id(0)
    row = pid // groups
    first, end = tl.load(start_ptr + row) + pid % groups * GROUP, tl.load(end_ptr + row)
    if first >= end:
        return
    entry = first if GROUP == 1 else first + tl.arange(0, COLUMNS) // BLOCK_K
    col = tl.load(cols_ptr + (first if GROUP == 1 else tl.minimum(entry, end - 1)))
    k, in_k = columns_of(col, None if GROUP == 1 else end - first, K, STRIDE_K, PARTS_K, BLOCK_K, GROUP, EVEN_K)
    offs_n = tl.arange(0, BLOCK_N)
    n = block_start(row, STRIDE_N, PARTS_N, BLOCK_N) + offs_n
    in_n = n < block_limit(row, N, STRIDE_N, PARTS_N)
    g = sums_of_blocks(
        dy_ptr, x_ptr, n, in_n, k, in_k, M, stride_dym, stride_dyn, stride_xm, stride_xk,
        EVEN_N, EVEN_K and GROUP == 1, PRECISION, BLOCK_M, BLOCK_N, COLUMNS)
    place = entry.to(tl.int64) * (BLOCK_N * BLOCK_K) + tl.arange(0, COLUMNS) % BLOCK_K
    dw_p = dw_ptr + place[None, :] + offs_n[:, None] * BLOCK_K
    tl.store(dw_p, g.to(dw_ptr.dtype.element_ty), mask=None if GROUP == 1 else (entry < end)[None, :])


@triton.jit
def columns_of(col, left, K, STRIDE_K: tl.constexpr, PARTS_K: tl.constexpr, BLOCK_K: tl.constexpr,
               GROUP: tl.constexpr, EVEN_K: tl.constexpr):
    """Return the columns of x, and which of them belong to a block that exists: of GROUP the first ``left``, None: all.

    ``col`` is that of each of the columns; with one block it is a number.
    """
    offs = tl.arange(0, GROUP * BLOCK_K)
    k = tl.max_contiguous(block_start(col, STRIDE_K, PARTS_K, BLOCK_K) + offs % BLOCK_K, BLOCK_K)
    k = tl.multiple_of(k, BLOCK_K) if STRIDE_K % BLOCK_K == 0 else k
    in_k = tl.full((GROUP * BLOCK_K,), 1, tl.int1) if EVEN_K else k < block_limit(col, K, STRIDE_K, PARTS_K)
    return k, in_k if left is None else in_k & (offs // BLOCK_K < left)


@triton.jit
def sums_of_blocks(
    dy_ptr, x_ptr, n, in_n, k, in_k, M, stride_dym, stride_dyn, stride_xm, stride_xk,
    ALL_N: tl.constexpr, ALL_K: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, COLUMNS: tl.constexpr,
):
    """Return dy[:, n].T @ x[:, k], (BLOCK_N, COLUMNS) in fp32, 0 where not in_n or in_k; ALL_N, ALL_K: all are.

    Low blocks lie on their side, as a wgmma takes 64 rows.
    """
    X_LEFT: tl.constexpr = BLOCK_N < 64 and COLUMNS >= 64
    dy_p = dy_ptr + n.to(tl.int64) * stride_dyn
    x_p = x_ptr + k.to(tl.int64) * stride_xk
    # columns beyond the edge hold garbage in the loop and are replaced after it
    if X_LEFT:
        a_p, a_step, in_a = x_p, stride_xm, None if ALL_K else in_k[:, None]
        b_p, b_step, in_b = dy_p, stride_dym, None if ALL_N else in_n[None, :]
    else:
        a_p, a_step, in_a = dy_p, stride_dym, None if ALL_N else in_n[:, None]
        b_p, b_step, in_b = x_p, stride_xm, None if ALL_K else in_k[None, :]
    a_p, b_p = a_p[:, None], b_p[None, :]
    offs_m = tl.arange(0, BLOCK_M)
    acc = tl.zeros((COLUMNS, BLOCK_N) if X_LEFT else (BLOCK_N, COLUMNS), tl.float32)
    whole = M // BLOCK_M * BLOCK_M
    if whole > 0:  # proves that the loop runs: wgmma stays asynchronous
        a_mp = a_p + offs_m.to(tl.int64)[None, :] * a_step
        b_mp = b_p + offs_m.to(tl.int64)[:, None] * b_step
        for _ in range(0, whole, BLOCK_M):
            a = tl.load(a_mp, mask=in_a)                                # (BLOCK_N or COLUMNS, BLOCK_M)
            b = tl.load(b_mp, mask=in_b)                                # (BLOCK_M, COLUMNS or BLOCK_N)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
            a_mp += tl.cast(BLOCK_M, tl.int64) * a_step
            b_mp += tl.cast(BLOCK_M, tl.int64) * b_step
    for m0 in tl.range(whole, M, 16, num_stages=1):  # what is left, in few registers
        rows = m0 + tl.arange(0, 16)
        in_m = rows < M
        rows = rows.to(tl.int64)
        a = tl.load(a_p + rows[None, :] * a_step, mask=both(in_m[None, :], in_a), other=0.0)
        b = tl.load(b_p + rows[:, None] * b_step, mask=both(in_m[:, None], in_b), other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    acc = acc.T if X_LEFT else acc
    if not ALL_N:
        acc = tl.where(in_n[:, None], acc, 0.0)
    if not ALL_K:
        acc = tl.where(in_k[None, :], acc, 0.0)
    return acc


@triton.jit
def both(one, other):
    """Return one & other, where the other may be None."""
    if other is None:
        return one
    else:
        return one & other
