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
    triton.Config({"AHEAD": False}, num_warps=4, num_stages=2),
    triton.Config({"AHEAD": False}, num_warps=4, num_stages=4),
    triton.Config({"AHEAD": False}, num_warps=4, num_stages=6),
    triton.Config({"AHEAD": False}, num_warps=2, num_stages=4),
    triton.Config({"AHEAD": False}, num_warps=2, num_stages=6),
    triton.Config({"AHEAD": False}, num_warps=1, num_stages=6),
    triton.Config({"AHEAD": True}, num_warps=4, num_stages=4),
    triton.Config({"AHEAD": True}, num_warps=2, num_stages=4),
]
KEY = ["N", "K", "TILE_N", "TILE_K", "STRIDE_WK", "EVEN_K", "WHOLE", "SPLITS", "PRECISION", "BLOCK_M", "TILE_BYTES"]


def worth_trying(configs, args, **kwargs):
    """Keep configurations whose threads have room for their sums, with as many stages as fit.

    With too few warps threads would exchange masks, with more than there are products of 16 x 8 they would repeat what
    others do. Two stages are kept only where no more fit: what few rows wait for is memory. Where W can be asked for
    ahead, four warps with four stages do so.
    """
    warps = max(kwargs["BLOCK_M"] * kwargs["BLOCK_N"] // 1024, 1 if kwargs["EVEN_K"] else 4)
    most = max(warps, kwargs["BLOCK_M"] * kwargs["BLOCK_N"] // (16 * 8))
    step = (kwargs["BLOCK_M"] + kwargs["BLOCK_N"]) * kwargs["BLOCK_K"] * args["x_ptr"].element_size()
    stages = min(6 if kwargs["BLOCK_M"] <= 32 else 4, shared_memory() // step)
    fit = [c for c in configs if warps <= c.num_warps <= most and 2 < c.num_stages <= stages]
    plain = {"AHEAD": False, "num_warps": 4, "num_stages": 4}
    left_out = plain.items() if kwargs["TILE_BYTES"] else {"AHEAD": True}.items()
    return [c for c in fit if not left_out <= c.all_kwargs().items()] or configs[:1]


@triton.jit
def fetch_ahead(w_ptr, first, end, TILE_BYTES: tl.constexpr):
    """Let L2 fetch the tiles of W from the first to the end: one thread asks, once (sm_90 and later).

    Where they lie follows from where the row starts; what is copied step by step waits for its columns, too.
    """
    address = w_ptr.to(tl.int64) + first.to(tl.int64) * TILE_BYTES
    tl.inline_asm_elementwise(
        """{
        .reg .pred asks;
        mov.u32 $0, %tid.x;
        setp.eq.u32 asks, $0, 0;
        @asks cp.async.bulk.prefetch.L2.global [$1], $2;
        }""", "=&r,l,r", [address, (end - first) * TILE_BYTES], dtype=tl.int32, is_pure=False, pack=1)


@autotune(CONFIGS, KEY, worth_trying)
@triton.jit
def block_decode_kernel(
    # tensors; slots, bias and residual may be None; y is (M, N), or pieces (SPLITS, M, N) fp32
    x_ptr, w_ptr, start_ptr, end_ptr, cols_ptr, slots_ptr, bias_ptr, residual_ptr, y_ptr,
    # sizes
    M, N, K,
    # strides
    stride_xm, stride_xk, stride_rm, stride_rn, stride_ym,
    # compile-time; W's strides are, so that its addresses differ by constants; TILE_BYTES: 0 where tiles do not follow
    # each other in the order of the list
    STRIDE_WS: tl.constexpr, STRIDE_WN: tl.constexpr, STRIDE_WK: tl.constexpr,
    TILE_N: tl.constexpr, PARTS_N: tl.constexpr, TILE_K: tl.constexpr, PARTS_K: tl.constexpr,
    GATHER: tl.constexpr, EVEN_K: tl.constexpr, WHOLE: tl.constexpr, SPLITS: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, OVERLAPPED: tl.constexpr,
    TILE_BYTES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, AHEAD: tl.constexpr,
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
        if AHEAD and TILE_BYTES > 0:
            fetch_ahead(w_ptr, start // PARTS_K, tl.cdiv(end, PARTS_K), TILE_BYTES)
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
