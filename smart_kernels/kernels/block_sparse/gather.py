"""y = activation(x @ W.T + bias + residual) for blocks of W that are narrow in K: several of them make one step.

    row 2: cols 0, 3, 4, 7, 9        step 0: | 0 | 3 | 4 | 7 |  columns of x, next to each other in shared memory
                                     step 1: | 9 | . | . | . |  zeros beyond the end of the row

A step is BLOCK_K deep: GATHER pieces, each a stored tile or, PARTS_K of them to a tile, a piece of one. Tiles are read
where they are stored, of any size (TILE_N, TILE_K). The indices of the next step are loaded one step ahead.

W_LEFT: the sums are y.T = W x.T, so that one wgmma takes 64 rows of W and all 256 of x.
"""

import triton
import triton.language as tl

from smart_kernels.kernels.common.blocks import add_product, block_limit, block_start
from smart_kernels.kernels.common.epilogue import along_m, along_n, finish
from smart_kernels.kernels.common.tuning import autotune, hopper, sums_beside, w_left

from .steps import columns_of, in_step, listed, rows_of_tile

CONFIGS = [  # the first is valid for every shape
    triton.Config({"BLOCK_M": 16, "W_LEFT": False}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_M": 64, "W_LEFT": False}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_M": 128, "W_LEFT": False}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_M": 128, "W_LEFT": False}, num_warps=8, num_stages=3),
    triton.Config({"BLOCK_M": 256, "W_LEFT": False}, num_warps=8, num_stages=2),
    triton.Config({"BLOCK_M": 256, "W_LEFT": True}, num_warps=8, num_stages=3),
    triton.Config({"BLOCK_M": 256, "W_LEFT": True}, num_warps=4, num_stages=4),
]
KEY = ["M_CLASS", "N", "K", "TILE_N", "TILE_K", "GATHER", "STRIDE_WK", "EVEN_K", "WHOLE", "PRECISION", "ACTIVATION"]


def worth_trying(configs, args, **kwargs):
    """Keep what is no taller than M and has room for its sums, and of configurations with W on the left what suits."""
    through_registers = args["x_ptr"].dtype.itemsize == 4 and not hopper()  # both operands are
    most = 32 * min(sums_beside(args, kwargs), 96 if through_registers else 128)
    sums = [(config, config.kwargs["BLOCK_M"] * kwargs["BLOCK_N"]) for config in configs]
    fit = [c for c, size in sums if c.kwargs["BLOCK_M"] <= args["M_CLASS"] and size <= most * c.num_warps]
    return w_left(fit, args, kwargs)


@autotune(CONFIGS, KEY, worth_trying)
@triton.jit
def block_gather_kernel(
    # tensors; slots, bias and residual may be None
    x_ptr, w_ptr, start_ptr, end_ptr, cols_ptr, slots_ptr, bias_ptr, residual_ptr, y_ptr,
    # sizes
    M, N, K,
    # strides
    stride_xm, stride_xk, stride_rm, stride_rn, stride_ym,
    # scalars; M_CLASS is M rounded, for the choice of the config
    M_CLASS, blocks_n,
    # compile-time; W's strides are, so that its addresses differ by constants
    STRIDE_WS: tl.constexpr, STRIDE_WN: tl.constexpr, STRIDE_WK: tl.constexpr,
    TILE_N: tl.constexpr, PARTS_N: tl.constexpr, TILE_K: tl.constexpr, PARTS_K: tl.constexpr,
    GATHER: tl.constexpr, EVEN_K: tl.constexpr, WHOLE: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, W_LEFT: tl.constexpr,
):
    # eight blocks of M side by side share the blocks of W in L2
    pid = tl.program_id(0)
    pid_m, pid_n = tl.swizzle2d(pid // blocks_n, pid % blocks_n, tl.cdiv(M, BLOCK_M), blocks_n, 8)
    PIECE: tl.constexpr = BLOCK_K // GATHER
    start, end = tl.load(start_ptr + pid_n // PARTS_N) * PARTS_K, tl.load(end_ptr + pid_n // PARTS_N) * PARTS_K

    offs_m, offs_n, offs_k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    # rows beyond the edge repeat the last one: no mask in the loop, and they are not stored
    offs_m += pid_m * BLOCK_M
    rows = tl.minimum(offs_m, M - 1).to(tl.int64)
    x_p = x_ptr + rows[:, None] * stride_xm
    w_p = w_ptr + rows_of_tile(pid_n, TILE_N, PARTS_N, BLOCK_N)[None, :] * STRIDE_WN

    M_AXIS: tl.constexpr = 1 if W_LEFT else 0  # of the sums
    acc = tl.zeros((BLOCK_N, BLOCK_M) if W_LEFT else (BLOCK_M, BLOCK_N), tl.float32)
    if end > start:  # a loop that may not run would serialize wgmma
        entry = start + offs_k // PIECE
        col, slot = listed(entry, end, cols_ptr, slots_ptr, PARTS_K)
        for _ in range(start, end, GATHER):
            next_col, next_slot = listed(entry + GATHER, end, cols_ptr, slots_ptr, PARTS_K)
            in_tile = entry % PARTS_K * PIECE
            k0, k = columns_of(col, in_tile, offs_k, TILE_K, PIECE)
            in_tile += offs_k % PIECE
            x_kp = x_p + k.to(tl.int64)[None, :] * stride_xk
            w_kp = w_p + slot.to(tl.int64)[:, None] * STRIDE_WS + in_tile[:, None] * STRIDE_WK
            if GATHER == 1 and EVEN_K:
                x, w = tl.load(x_kp), tl.load(w_kp)                           # (BLOCK_M, BLOCK_K), (BLOCK_K, BLOCK_N)
            else:
                in_k = in_step(entry, end, k0, k, col, K, TILE_K, EVEN_K, WHOLE)
                x = tl.load(x_kp, mask=in_k[None, :], other=0.0)
                w = tl.load(w_kp, mask=in_k[:, None], other=0.0)
            acc = add_product(acc, x, w, W_LEFT, PRECISION)
            col = next_col
            slot = next_slot
            entry = entry + GATHER

    offs_n += block_start(pid_n, TILE_N, PARTS_N, BLOCK_N)
    in_n = offs_n < block_limit(pid_n, N, TILE_N, PARTS_N)
    in_y = along_m(offs_m < M, M_AXIS) & along_n(in_n, M_AXIS)
    finish(
        acc, bias_ptr, residual_ptr, y_ptr, offs_m.to(tl.int64), offs_n, in_n, in_y, stride_rm, stride_rn, stride_ym,
        ACTIVATION, M_AXIS)
