"""y = x @ W.T, where only some (BLOCK_N, BLOCK_K) blocks of W exist, and the gradient of those blocks.

              K                         row 0: cols 1, 3     start = [0, 2, 2]
        +---+---+---+---+               row 1: -             end   = [2, 2, 5]
      W | . | # | . | # |               row 2: cols 0, 1, 2  cols  = [1, 3, 0, 1, 2]
        | . | . | . | . | N
        | # | # | # | . |               W_ptr[slots[j]] is block j; without slots W_ptr[j]
        +---+---+---+---+

A program walks the list of one block row, so cost follows the number of blocks; the next index is loaded one step
ahead, which keeps it out of the load pipeline. Along N and K, block i starts at (i // PARTS) * STRIDE +
(i % PARTS) * BLOCK: tiles of any size STRIDE are cut into PARTS blocks. W_LEFT: the sums are y.T = W x.T.
"""

import triton
import triton.language as tl

from .blocks import add_product, block_limit, block_start
from .epilogue import along_m, along_n, finish, load_residual
from .tuning import KEY, autotune, fitting, sums_beside, w_left, wgmma, worth_trying_grad

EXACT = triton.Config({"BLOCK_M": 64, "TMA": False}, num_warps=8, num_stages=2, maxnreg=128)  # fp32, no tensor cores
CONFIGS = [  # the first is valid for every shape
    triton.Config({"BLOCK_M": 16, "TMA": False}, num_warps=4, num_stages=2),
    triton.Config({"BLOCK_M": 16, "TMA": False}, num_warps=4, num_stages=4),
    triton.Config({"BLOCK_M": 32, "TMA": False}, num_warps=4, num_stages=4),
    triton.Config({"BLOCK_M": 64, "TMA": False}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_M": 128, "TMA": False}, num_warps=4, num_stages=3, maxnreg=255),
    triton.Config({"BLOCK_M": 128, "TMA": False}, num_warps=8, num_stages=3),
    triton.Config({"BLOCK_M": 128, "TMA": False}, num_warps=8, num_stages=2),
    triton.Config({"BLOCK_M": 256, "TMA": False}, num_warps=8, num_stages=3),
    triton.Config({"BLOCK_M": 128, "TMA": True}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_M": 128, "TMA": True}, num_warps=8, num_stages=4),
    triton.Config({"BLOCK_M": 256, "TMA": True, "W_LEFT": True}, num_warps=8, num_stages=3),
    triton.Config({"BLOCK_M": 256, "TMA": True, "W_LEFT": True}, num_warps=8, num_stages=2),
    triton.Config({"BLOCK_M": 256, "TMA": False, "W_LEFT": True}, num_warps=8, num_stages=2),
    triton.Config({"BLOCK_M": 256, "TMA": False, "W_LEFT": True}, num_warps=4, num_stages=4),
    EXACT,
]
GRAD_CONFIGS = [
    triton.Config({"BLOCK_M": 16}, num_warps=4, num_stages=2),
    triton.Config({"BLOCK_M": 32}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_M": 64}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_M": 128}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_M": 128}, num_warps=8, num_stages=3),
]


def worth_trying(configs, args, **kwargs):
    """Keep what the device holds and what is for this precision; copies by descriptor only of as many rows as it has.

    The addresses of a step that is scaled take the place of half of the sums.
    """
    scaled = args["scale_ptr"] is not None
    exact = args["x_ptr"].element_size() == 4 and kwargs["PRECISION"] == "ieee"
    copied = [c for c in configs if not c.kwargs["TMA"] or c.kwargs["BLOCK_M"] == kwargs["TMA_ROWS"]]
    found = [c for c in copied if exact or c is not EXACT]
    found = fit_for_fp8(found) if scaled else found
    found = fitting(found, args, kwargs, sums=sums_beside(args, kwargs) >> scaled)
    found = w_left(found, args, kwargs)
    if kwargs["STRIDE_WK"] == 1 or kwargs["BLOCK_K"] <= 64 or wgmma():
        return found
    # W is transposed on its way: 128 rows of four warps have no registers for a step as deep as this
    return [c for c in found if (c.kwargs["BLOCK_M"], c.num_warps) != (128, 4)] or found[:1]


def fit_for_fp8(configs):
    """Keep the configurations that suit fp8.

    Where wgmma could multiply them, fewer than 64 rows of fp8 are converted and multiplied as fp16. Elsewhere the
    compiler copies the sums in every step of four warps and 128 rows.
    """
    if wgmma():
        return [c for c in configs if c.kwargs["BLOCK_M"] >= 64]
    return [c for c in configs if (c.kwargs["BLOCK_M"], c.num_warps) != (128, 4)]


@autotune(CONFIGS, [*KEY, "STRIDE_WK", "EVEN_K", "TMA_ROWS", "ACTIVATION"], worth_trying)
@triton.jit
def block_matmul_kernel(
    # tensors; slots, order, scale, bias and residual may be None
    x_ptr, w_ptr, start_ptr, end_ptr, cols_ptr, slots_ptr, order_ptr, scale_ptr, bias_ptr, residual_ptr, y_ptr,
    # descriptors of x and W, or None
    x_tma, w_tma,
    # sizes
    M, N, K,
    # strides
    stride_xm, stride_xk, stride_scale, stride_rm, stride_rn, stride_ym,
    # scalars; M_CLASS is M rounded, for the choice of the config
    M_CLASS, blocks_n,
    # compile-time; W's strides are, so that its addresses differ by constants; TMA_ROWS are copied by one descriptor
    STRIDE_WS: tl.constexpr, STRIDE_WN: tl.constexpr, STRIDE_WK: tl.constexpr,
    STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr, STRIDE_K: tl.constexpr, PARTS_K: tl.constexpr,
    EVEN_K: tl.constexpr, TMA_ROWS: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, TMA: tl.constexpr,
    W_LEFT: tl.constexpr = False,
):
    # eight blocks of M side by side share the blocks of W in L2
    pid = tl.program_id(0)
    pid_m, pid_n = tl.swizzle2d(pid // blocks_n, pid % blocks_n, tl.cdiv(M, BLOCK_M), blocks_n, 8)
    if order_ptr is not None:  # long rows first, so that none is left for the end
        pid_n = tl.load(order_ptr + pid_n)
    start, end = tl.load(start_ptr + pid_n), tl.load(end_ptr + pid_n)

    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n, offs_k = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    # rows beyond M repeat the last one: no mask in the loop, and they are not stored
    rows = tl.minimum(offs_m, M - 1).to(tl.int64)
    x_p = x_ptr + rows[:, None] * stride_xm + offs_k[None, :] * stride_xk
    w_p = w_ptr + offs_k[:, None] * STRIDE_WK + offs_n[None, :] * STRIDE_WN

    offs_yn = block_start(pid_n, STRIDE_N, PARTS_N, BLOCK_N) + offs_n
    in_n = offs_yn < block_limit(pid_n, N, STRIDE_N, PARTS_N)
    M_AXIS: tl.constexpr = 1 if W_LEFT else 0  # of the sums
    inside = along_m(offs_m < M, M_AXIS) & along_n(in_n, M_AXIS)

    acc = tl.zeros((BLOCK_N, BLOCK_M) if W_LEFT else (BLOCK_M, BLOCK_N), tl.float32)
    if residual_ptr is not None:  # the sums start from it: added at the end it would need registers beside them
        acc = load_residual(residual_ptr, offs_m.to(tl.int64), offs_yn, inside, stride_rm, stride_rn, M_AXIS)
    if end > start:  # a loop that may not run would serialize wgmma
        col = tl.load(cols_ptr + start)
        slot = start if slots_ptr is None else tl.load(slots_ptr + start)
        for j in range(start, end):
            ahead = tl.minimum(j + 1, end - 1)
            next_col = tl.load(cols_ptr + ahead)
            next_slot = ahead if slots_ptr is None else tl.load(slots_ptr + ahead)
            k0 = block_start(col, STRIDE_K, PARTS_K, BLOCK_K)
            if TMA and TMA_ROWS == BLOCK_M:
                x = x_tma.load([pid_m * BLOCK_M, k0])
                w = w_tma.load([slot * BLOCK_N, 0]).T
            else:
                x_kp = x_p + k0.to(tl.int64) * stride_xk
                if EVEN_K:
                    x = tl.load(x_kp)                                         # (BLOCK_M, BLOCK_K)
                else:
                    in_k = offs_k < tl.minimum(STRIDE_K - col % PARTS_K * BLOCK_K, K - k0)
                    x = tl.load(x_kp, mask=in_k[None, :], other=0.0)
                w = tl.load(w_p + slot.to(tl.int64) * STRIDE_WS)                  # (BLOCK_K, BLOCK_N)
            if scale_ptr is None:
                acc = add_product(acc, x, w, W_LEFT, PRECISION)
            else:  # wgmma keeps few bits of a sum of fp8: fp32 takes over after each step
                acc += tl.dot(x, w) * tl.load(scale_ptr + slot * stride_scale)
            col, slot = next_col, next_slot

    finish(acc, bias_ptr, None, y_ptr, offs_m.to(tl.int64), offs_yn, in_n, inside, 0, 0, stride_ym, ACTIVATION, M_AXIS)


@autotune(GRAD_CONFIGS, [*KEY, "EVEN"], worth_trying_grad)
@triton.jit
def block_grad_kernel(
    # tensors
    dy_ptr, x_ptr, rows_ptr, cols_ptr, dw_ptr,
    # sizes
    M, N, K,
    # strides
    stride_dym, stride_dyn, stride_xm, stride_xk,
    # scalars; M_CLASS is M rounded, for the choice of the config
    M_CLASS,
    # compile-time
    STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr, STRIDE_K: tl.constexpr, PARTS_K: tl.constexpr,
    EVEN: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64)
    row, col = tl.load(rows_ptr + block), tl.load(cols_ptr + block)

    offs_m = tl.arange(0, BLOCK_M)
    offs_n = block_start(row, STRIDE_N, PARTS_N, BLOCK_N) + tl.arange(0, BLOCK_N)
    offs_k = block_start(col, STRIDE_K, PARTS_K, BLOCK_K) + tl.arange(0, BLOCK_K)
    in_n = offs_n < block_limit(row, N, STRIDE_N, PARTS_N)
    in_k = offs_k < block_limit(col, K, STRIDE_K, PARTS_K)
    # columns beyond the edge hold garbage here and are replaced when stored
    in_dy, in_x = (None, None) if EVEN else (in_n[:, None], in_k[None, :])
    dy_p = dy_ptr + offs_n.to(tl.int64)[:, None] * stride_dyn
    x_p = x_ptr + offs_k.to(tl.int64)[None, :] * stride_xk

    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    whole = M // BLOCK_M * BLOCK_M
    if whole > 0:
        dy_mp = dy_p + offs_m.to(tl.int64)[None, :] * stride_dym
        x_mp = x_p + offs_m.to(tl.int64)[:, None] * stride_xm
        for _ in range(0, whole, BLOCK_M):
            dy = tl.load(dy_mp, mask=in_dy)                                   # (BLOCK_N, BLOCK_M)
            x = tl.load(x_mp, mask=in_x)                                      # (BLOCK_M, BLOCK_K)
            acc = tl.dot(dy, x, acc, input_precision=PRECISION)
            dy_mp += tl.cast(BLOCK_M, tl.int64) * stride_dym
            x_mp += tl.cast(BLOCK_M, tl.int64) * stride_xm
    for m0 in tl.range(whole, M, 16, num_stages=1):  # what is left, in few registers
        rows = m0 + tl.arange(0, 16)
        in_m = rows < M
        rows = rows.to(tl.int64)
        dy = tl.load(dy_p + rows[None, :] * stride_dym, mask=in_m[None, :] & in_n[:, None], other=0.0)
        x = tl.load(x_p + rows[:, None] * stride_xm, mask=in_m[:, None] & in_k[None, :], other=0.0)
        acc = tl.dot(dy, x, acc, input_precision=PRECISION)

    acc = tl.where(in_n[:, None] & in_k[None, :], acc, 0.0)
    dw_p = dw_ptr + block * (BLOCK_N * BLOCK_K) + tl.arange(0, BLOCK_N)[:, None] * BLOCK_K
    tl.store(dw_p + tl.arange(0, BLOCK_K)[None, :], acc.to(dw_ptr.dtype.element_ty))
