"""y = activation(x @ W.T + bias + residual) for few rows of x: what counts is to read each stored tile of W once.

          BLOCK_M                 y.T = W x.T, so that the many rows of W, not the few of x, fill the tensor cores
           +---+
           |x.T| K                A row of tiles is shared by SPLITS programs, each writes its sum into `pieces`:
    +-----++---+
    |  W  ||y.T| BLOCK_N          row: | 0 | 3 | 4 | 7 | 9 |   SPLITS = 2: | 0 | 3 | 4 |  and  | 7 | 9 |
    +-----++---+
                                  sum_pieces_kernel adds them up in this order. With SPLITS = 1 it is not needed.

Steps gather tiles that are narrow in K, see steps.py.
"""

import triton
import triton.language as tl

from smart_kernels.kernels.common.blocks import block_limit, block_start
from smart_kernels.kernels.common.epilogue import finish
from smart_kernels.kernels.common.overlap import after_launch_before
from smart_kernels.kernels.common.tuning import autotune, shared_memory

from .steps import columns_of, in_step, listed, rows_of_tile

CONFIGS = [  # the first is valid for every shape
    triton.Config({}, num_warps=4, num_stages=2),
    triton.Config({}, num_warps=4, num_stages=4),
    triton.Config({}, num_warps=4, num_stages=6),
    triton.Config({}, num_warps=2, num_stages=4),
    triton.Config({}, num_warps=2, num_stages=6),
    triton.Config({}, num_warps=1, num_stages=6),
]
KEY = ["N", "K", "TILE_N", "TILE_K", "STRIDE_WK", "EVEN_K", "WHOLE", "SPLITS", "PRECISION", "BLOCK_M"]


def worth_trying(configs, args, **kwargs):
    """Keep configurations whose threads have room for their sums, with as many stages as fit.

    With too few warps threads would exchange masks, with more than there are products of 16 x 8 they would repeat what
    others do. Two stages are kept only where no more fit: what few rows wait for is memory.
    """
    warps = max(kwargs["BLOCK_M"] * kwargs["BLOCK_N"] // 1024, 1 if kwargs["EVEN_K"] else 4)
    most = max(warps, kwargs["BLOCK_M"] * kwargs["BLOCK_N"] // (16 * 8))
    step = (kwargs["BLOCK_M"] + kwargs["BLOCK_N"]) * kwargs["BLOCK_K"] * args["x_ptr"].element_size()
    stages = min(6 if kwargs["BLOCK_M"] <= 32 else 4, shared_memory() // step)
    return [c for c in configs if warps <= c.num_warps <= most and 2 < c.num_stages <= stages] or configs[:1]


@autotune(CONFIGS, KEY, worth_trying)
@triton.jit
def block_decode_kernel(
    # tensors; slots, bias and residual may be None; y is (M, N), or pieces (SPLITS, M, N) fp32
    x_ptr, w_ptr, start_ptr, end_ptr, cols_ptr, slots_ptr, bias_ptr, residual_ptr, y_ptr,
    # sizes
    M, N, K,
    # strides
    stride_xm, stride_xk, stride_rm, stride_rn, stride_ym,
    # compile-time; W's strides are, so that its addresses differ by constants
    STRIDE_WS: tl.constexpr, STRIDE_WN: tl.constexpr, STRIDE_WK: tl.constexpr,
    TILE_N: tl.constexpr, PARTS_N: tl.constexpr, TILE_K: tl.constexpr, PARTS_K: tl.constexpr,
    GATHER: tl.constexpr, EVEN_K: tl.constexpr, WHOLE: tl.constexpr, SPLITS: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, OVERLAPPED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    after_launch_before(OVERLAPPED)
    pid_n, pid_s = tl.program_id(0), tl.program_id(1)
    PIECE: tl.constexpr = BLOCK_K // GATHER
    start, end = tl.load(start_ptr + pid_n // PARTS_N) * PARTS_K, tl.load(end_ptr + pid_n // PARTS_N) * PARTS_K
    steps = tl.cdiv(tl.cdiv(end - start, GATHER), SPLITS)
    start += pid_s * steps * GATHER
    end = tl.minimum(start + steps * GATHER, end)

    offs_m, offs_n, offs_k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    # rows beyond the edge repeat the last one: no mask in the loop, and they are not stored
    rows = tl.minimum(offs_m, M - 1).to(tl.int64)
    x_p = x_ptr + rows[None, :] * stride_xm
    w_p = w_ptr + rows_of_tile(pid_n, TILE_N, PARTS_N, BLOCK_N)[:, None] * STRIDE_WN

    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    if end > start:  # a loop that may not run would serialize wgmma
        entry = start + offs_k // PIECE
        col, slot = listed(entry, end, cols_ptr, slots_ptr, PARTS_K)
        for _ in range(start, end, GATHER):
            next_col, next_slot = listed(entry + GATHER, end, cols_ptr, slots_ptr, PARTS_K)
            in_tile = entry % PARTS_K * PIECE
            k0, k = columns_of(col, in_tile, offs_k, TILE_K, PIECE)
            in_tile += offs_k % PIECE
            x_kp = x_p + k.to(tl.int64)[:, None] * stride_xk
            w_kp = w_p + slot.to(tl.int64)[None, :] * STRIDE_WS + in_tile[None, :] * STRIDE_WK
            if GATHER == 1 and EVEN_K:
                x, w = tl.load(x_kp), tl.load(w_kp)                           # (BLOCK_K, BLOCK_M), (BLOCK_N, BLOCK_K)
            else:
                in_k = in_step(entry, end, k0, k, col, K, TILE_K, EVEN_K, WHOLE)
                x = tl.load(x_kp, mask=in_k[:, None], other=0.0)
                w = tl.load(w_kp, mask=in_k[None, :], other=0.0)
            acc = tl.dot(w, x, acc, input_precision=PRECISION)
            col = next_col
            slot = next_slot
            entry = entry + GATHER

    offs_n += block_start(pid_n, TILE_N, PARTS_N, BLOCK_N)
    in_n = offs_n < block_limit(pid_n, N, TILE_N, PARTS_N)
    in_y = in_n[:, None] & (offs_m < M)[None, :]
    offs_m = offs_m.to(tl.int64)
    if SPLITS == 1:
        finish(
            acc, bias_ptr, residual_ptr, y_ptr, offs_m, offs_n, in_n, in_y, stride_rm, stride_rn, stride_ym,
            ACTIVATION, 1)
    else:
        m = offs_m[None, :]
        y_ptr += pid_s.to(tl.int64) * M * stride_ym
        tl.store(y_ptr + m * stride_ym + offs_n[:, None], acc, mask=in_y)
