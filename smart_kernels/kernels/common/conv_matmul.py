"""y = conv2d(x, W), where only some (BLOCK_N, BLOCK_K) blocks of W exist, and the gradient of those blocks.

    W as a matrix, 3 x 3 taps, two blocks of channels each:        y[pixel] += x[pixel + shift(tap), channels] @ block.T

      tap     0       1            8          column = tap * BLOCKS_K + channel block
          +---+---+---+---+ ... +---+---+
        W | . | # | . | . |     | # | . |     x is never unfolded: a program owns BLOCK_M pixels of y and, for each
          | # | . | . | # |     | . | . | N   block of its row, reads the same pixels of x, shifted
          +---+---+---+---+ ... +---+---+

One kernel serves the convolution and its transpose. Pixel p of y (along H, likewise along W) reads

    p = UP * i + phase  ->  DOWN * i + (phase + OFFSET + tap * STEP) / UP

    convolution   UP = 1       DOWN = stride  OFFSET = -padding  STEP = dilation
    transposed    UP = stride  DOWN = 1       OFFSET = padding   STEP = -dilation

A tap reaches one phase only, so the rows of a transposed product are (phase, channel block): every phase walks its own
taps, and a stride costs no idle products. Images are NHWC.
"""

import triton
import triton.language as tl

from .blocks import block_limit, block_start, inside
from .epilogue import activate, bias_and_residual
from .tuning import autotune, fitting, wgmma, worth_trying_grad

CONFIGS = [  # the first is valid for every shape
    triton.Config({"BLOCK_M": 16}, num_warps=4, num_stages=2),
    triton.Config({"BLOCK_M": 32}, num_warps=4, num_stages=4),
    triton.Config({"BLOCK_M": 64}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_M": 128}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_M": 128}, num_warps=8, num_stages=3),
    triton.Config({"BLOCK_M": 128}, num_warps=8, num_stages=2),
]
GRAD_CONFIGS = [
    triton.Config({"BLOCK_M": 16}, num_warps=4, num_stages=2),
    triton.Config({"BLOCK_M": 32}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_M": 64}, num_warps=4, num_stages=3, maxnreg=255),
    triton.Config({"BLOCK_M": 64}, num_warps=8, num_stages=3),
    triton.Config({"BLOCK_M": 128}, num_warps=8, num_stages=2),
]
KEY = ["M_CLASS", "N", "K", "KH", "KW", "BLOCK_N", "BLOCK_K", "HALO", "PRECISION"]


def worth_trying(configs, args, **kwargs):
    """Keep what the device holds; where operands need registers, pixels and their bits leave room for half the sums."""
    return fitting(configs, args, kwargs, sums=128 if wgmma() else 64)


@autotune(CONFIGS, [*KEY, "UP_H", "UP_W", "STRIDE_WK", "EVEN_K"], worth_trying)
@triton.jit
def conv_matmul_kernel(
    # tensors; slots, bias and residual may be None
    x_ptr, w_ptr, start_ptr, end_ptr, cols_ptr, slots_ptr, bias_ptr, residual_ptr, y_ptr,
    # sizes: images, x (H, W, K), y (P, Q, N)
    images, H, W, K, P, Q, N,
    # strides
    stride_xb, stride_xh, stride_xw, stride_yb, stride_yh, stride_yw,
    # scalars; M_CLASS is the number of pixels rounded, for the choice of the config
    M_CLASS, blocks_n,
    # compile-time; W's strides are, so that its addresses differ by constants
    STRIDE_WS: tl.constexpr, STRIDE_WN: tl.constexpr, STRIDE_WK: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, UP_H: tl.constexpr, UP_W: tl.constexpr,
    DOWN_H: tl.constexpr, DOWN_W: tl.constexpr, OFFSET_H: tl.constexpr, OFFSET_W: tl.constexpr,
    STEP_H: tl.constexpr, STEP_W: tl.constexpr,
    STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr, STRIDE_K: tl.constexpr, PARTS_K: tl.constexpr,
    BLOCKS_K: tl.constexpr, EVEN_K: tl.constexpr, HALO: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    # eight blocks of pixels side by side share the blocks of W in L2
    pid = tl.program_id(0)
    p_phase, q_phase = tl.cdiv(P, UP_H), tl.cdiv(Q, UP_W)
    M = images * p_phase * q_phase
    rows = blocks_n * UP_H * UP_W
    pid_m, row = tl.swizzle2d(pid // rows, pid % rows, tl.cdiv(M, BLOCK_M), rows, 8)
    start, end = tl.load(start_ptr + row), tl.load(end_ptr + row)
    phase, pid_n = row // blocks_n, row % blocks_n
    phase_h, phase_w = phase // UP_W, phase % UP_W

    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n, offs_k = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    # pixels beyond the last repeat it: no mask for them in the loop, and they are not stored
    pixel = tl.minimum(offs_m, M - 1)
    i, j = pixel // q_phase % p_phase, pixel % q_phase
    image = (pixel // (p_phase * q_phase)).to(tl.int64)
    h, w = i * DOWN_H, j * DOWN_W
    x_p = x_ptr + (image * stride_xb + h.to(tl.int64) * stride_xh + w.to(tl.int64) * stride_xw)[:, None]
    x_p += offs_k[None, :]
    w_p = w_ptr + offs_k[:, None] * STRIDE_WK + offs_n[None, :] * STRIDE_WN

    offs_n += block_start(pid_n, STRIDE_N, PARTS_N, BLOCK_N)
    in_n = offs_n < block_limit(pid_n, N, STRIDE_N, PARTS_N)
    p, q = i * UP_H + phase_h, j * UP_W + phase_w
    in_y = ((offs_m < M) & (p < P) & (q < Q))[:, None] & in_n[None, :]
    y_offs = (image * stride_yb + p.to(tl.int64) * stride_yh + q.to(tl.int64) * stride_yw)[:, None] + offs_n[None, :]
    # one bit per tap, set where it reads inside of x: two instructions per pixel and step
    reach = tl.zeros((BLOCK_M,), tl.int32)
    if HALO and KH * KW <= 32:
        for t in tl.static_range(KH * KW):
            dh = (phase_h + OFFSET_H + t // KW * STEP_H) // UP_H
            dw = (phase_w + OFFSET_W + t % KW * STEP_W) // UP_W
            reach |= (inside(h + dh, H) & inside(w + dw, W)).to(tl.int32) << t
    acc = bias_and_residual(bias_ptr, residual_ptr, offs_n, in_n, y_offs, in_y, BLOCK_M, BLOCK_N)

    if end > start:  # a loop that may not run would serialize wgmma
        col = tl.load(cols_ptr + start)
        slot = start if slots_ptr is None else tl.load(slots_ptr + start)
        for e in range(start, end):
            ahead = tl.minimum(e + 1, end - 1)
            next_col = tl.load(cols_ptr + ahead)
            next_slot = ahead if slots_ptr is None else tl.load(slots_ptr + ahead)
            tap, block = col // BLOCKS_K, col % BLOCKS_K
            shift_h = (phase_h + OFFSET_H + tap // KW * STEP_H) // UP_H
            shift_w = (phase_w + OFFSET_W + tap % KW * STEP_W) // UP_W
            k0 = block_start(block, STRIDE_K, PARTS_K, BLOCK_K)
            x_kp = x_p + (shift_h * stride_xh + shift_w * stride_xw + k0)
            in_k = k0 + offs_k < block_limit(block, K, STRIDE_K, PARTS_K)
            in_x = (reach & (1 << tap)) != 0 if KH * KW <= 32 else inside(h + shift_h, H) & inside(w + shift_w, W)
            if HALO and EVEN_K:
                x = tl.load(x_kp, mask=in_x[:, None], other=0.0)                 # (BLOCK_M, BLOCK_K)
            elif HALO:
                x = tl.load(x_kp, mask=in_x[:, None] & in_k[None, :], other=0.0)
            elif EVEN_K:
                x = tl.load(x_kp)
            else:
                x = tl.load(x_kp, mask=in_k[None, :], other=0.0)
            w_block = tl.load(w_p + slot.to(tl.int64) * STRIDE_WS)               # (BLOCK_K, BLOCK_N)
            acc = tl.dot(x, w_block, acc, input_precision=PRECISION)
            col, slot = next_col, next_slot

    tl.store(y_ptr + y_offs, activate(acc, ACTIVATION).to(y_ptr.dtype.element_ty), mask=in_y)


@autotune(GRAD_CONFIGS, [*KEY, "EVEN"], worth_trying_grad)
@triton.jit
def conv_grad_kernel(
    # tensors
    dy_ptr, x_ptr, rows_ptr, cols_ptr, dw_ptr,
    # sizes: x (H, W, K), y (P, Q, N), pixels of y
    H, W, K, P, Q, N, M,
    # strides
    stride_dym, stride_xb, stride_xh, stride_xw,
    # scalars: blocks, pixels per part; M_CLASS is the number of pixels rounded, for the choice of the config
    blocks, chunk, M_CLASS,
    # compile-time
    KH: tl.constexpr, KW: tl.constexpr, DOWN_H: tl.constexpr, DOWN_W: tl.constexpr,
    OFFSET_H: tl.constexpr, OFFSET_W: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr,
    STRIDE_N: tl.constexpr, PARTS_N: tl.constexpr, STRIDE_K: tl.constexpr, PARTS_K: tl.constexpr,
    BLOCKS_K: tl.constexpr, EVEN: tl.constexpr, HALO: tl.constexpr, PRECISION: tl.constexpr,
    GAPS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    # the parts of one sum over pixels are added in order by a second pass
    pid, part = tl.program_id(0), tl.program_id(1)
    row = tl.load(rows_ptr + pid)
    if GAPS and row < 0:  # a list with room for every block: -1 where there is none
        return
    col = tl.load(cols_ptr + pid)
    tap, block = col // BLOCKS_K, col % BLOCKS_K
    shift_h, shift_w = OFFSET_H + tap // KW * STEP_H, OFFSET_W + tap % KW * STEP_W

    offs_n = block_start(row, STRIDE_N, PARTS_N, BLOCK_N) + tl.arange(0, BLOCK_N)
    offs_k = block_start(block, STRIDE_K, PARTS_K, BLOCK_K) + tl.arange(0, BLOCK_K)
    in_n = offs_n < block_limit(row, N, STRIDE_N, PARTS_N)
    in_k = offs_k < block_limit(block, K, STRIDE_K, PARTS_K)

    # columns beyond the edge hold garbage here and are replaced when stored
    in_dy = None if EVEN else in_n[:, None]
    start = part * chunk
    end = tl.minimum(M, part * chunk + chunk)
    whole = start + (end - start) // BLOCK_M * BLOCK_M
    offs_m = start + tl.arange(0, BLOCK_M)
    # a step of BLOCK_M pixels, as images, rows and columns: adding with carry is cheaper than dividing
    image = offs_m // (P * Q)
    i = offs_m // Q % P
    j = offs_m % Q
    images = BLOCK_M // (P * Q)
    rows = BLOCK_M // Q % P
    columns = BLOCK_M % Q
    dy_p = dy_ptr + offs_n[:, None]
    x_p = x_ptr + (shift_h * stride_xh + shift_w * stride_xw) + offs_k[None, :]

    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    if whole > start:
        dy_mp = dy_p + offs_m.to(tl.int64)[None, :] * stride_dym
        for _ in range(start, whole, BLOCK_M):
            h, w = i * DOWN_H, j * DOWN_W
            x_offs = image.to(tl.int64) * stride_xb + (h * stride_xh + w * stride_xw)
            in_x = inside(h + shift_h, H) & inside(w + shift_w, W)
            dy = tl.load(dy_mp, mask=in_dy)                                      # (BLOCK_N, BLOCK_M)
            if not HALO and EVEN:
                x = tl.load(x_p + x_offs[:, None])                               # (BLOCK_M, BLOCK_K)
            elif EVEN:
                x = tl.load(x_p + x_offs[:, None], mask=in_x[:, None], other=0.0)
            else:
                x = tl.load(x_p + x_offs[:, None], mask=in_x[:, None] & in_k[None, :], other=0.0)
            acc = tl.dot(dy, x, acc, input_precision=PRECISION)
            dy_mp += tl.cast(BLOCK_M, tl.int64) * stride_dym
            j += columns
            i += rows + (j >= Q).to(tl.int32)
            j = tl.where(j >= Q, j - Q, j)
            image += images + (i >= P).to(tl.int32)
            i = tl.where(i >= P, i - P, i)
    for m0 in tl.range(whole, end, 16, num_stages=1):  # what is left, in few registers
        pixel = m0 + tl.arange(0, 16)
        h, w = pixel // Q % P * DOWN_H, pixel % Q * DOWN_W
        x_offs = (pixel // (P * Q)).to(tl.int64) * stride_xb + (h * stride_xh + w * stride_xw)
        in_m = pixel < end
        in_x = in_m & inside(h + shift_h, H) & inside(w + shift_w, W)
        dy_mp = dy_p + pixel.to(tl.int64)[None, :] * stride_dym
        dy = tl.load(dy_mp, mask=in_m[None, :] & in_n[:, None], other=0.0)
        x = tl.load(x_p + x_offs[:, None], mask=in_x[:, None] & in_k[None, :], other=0.0)
        acc = tl.dot(dy, x, acc, input_precision=PRECISION)

    acc = tl.where(in_n[:, None] & in_k[None, :], acc, 0.0)
    dw_p = dw_ptr + (part.to(tl.int64) * blocks + pid) * (BLOCK_N * BLOCK_K)
    dw_p += tl.arange(0, BLOCK_N)[:, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    tl.store(dw_p, acc.to(dw_ptr.dtype.element_ty))
