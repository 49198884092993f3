"""y = x @ W.T, where only some (BLOCK_N, BLOCK_K) blocks of W exist.

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
from .tuning import KEY, autotune, fitting, sums_beside, w_left, wgmma


def _config(rows: int, warps: int, stages: int, *, tma: bool = False, left: bool = False, **limit: int):
    return triton.Config({"BLOCK_M": rows, "TMA": tma, "W_LEFT": left}, num_warps=warps, num_stages=stages, **limit)


EXACT = _config(64, 8, 2, maxnreg=128)  # fp32, no tensor cores
CONFIGS = [  # the first is valid for every shape
    _config(16, 4, 2),
    _config(16, 4, 4),
    _config(32, 4, 4),
    _config(64, 4, 3),
    _config(128, 4, 3, maxnreg=255),
    _config(128, 8, 3),
    _config(128, 8, 2),
    _config(256, 8, 3),
    _config(128, 4, 3, tma=True),
    _config(128, 8, 4, tma=True),
    _config(256, 8, 3, tma=True, left=True),
    _config(256, 8, 2, tma=True, left=True),
    _config(256, 8, 2, left=True),
    _config(256, 4, 4, left=True),
    EXACT,
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
    W_LEFT: tl.constexpr,
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
