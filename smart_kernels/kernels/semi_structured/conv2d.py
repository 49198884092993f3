"""y = activation(conv2d(x, W) + bias + residual), where every GROUP input channels of W keep KEEP of them at each tap.

    W row    tap 0 . a . b | c . d .   tap 1 e f . . | . g . h   ...      channels filled up to whole groups per tap

    y[pixel] += x[pixel + shift(tap), BLOCK_K channels] @ (tile of W, spread out in registers).T

x is never unfolded: a step reads the same BLOCK_M pixels, shifted by its tap, as ``block_sparse_conv2d`` does for the
blocks of its list; here the list is every tap and block of channels. W is spread out as in ``nm_matmul``. Images
are contiguous NHWC.
"""

import triton
import triton.language as tl

from smart_kernels.kernels.common.blocks import inside
from smart_kernels.kernels.common.epilogue import activate, bias_and_residual
from smart_kernels.kernels.common.nm import stored, tile
from smart_kernels.kernels.common.tuning import autotune, holds, wgmma

CONFIGS = [  # the first is valid for every shape; none is short: each spreads W out anew
    triton.Config({"BLOCK_M": 64, "BLOCK_N": 64}, num_warps=8, num_stages=2),
    triton.Config({"BLOCK_M": 128, "BLOCK_N": 64}, num_warps=8, num_stages=2),
    triton.Config({"BLOCK_M": 128, "BLOCK_N": 64}, num_warps=8, num_stages=3),
    triton.Config({"BLOCK_M": 256, "BLOCK_N": 64}, num_warps=8, num_stages=3),
]
KEY = ["M_CLASS", "N", "K", "KH", "KW", "KEEP", "GROUP", "BLOCK_K", "EVEN", "HALO", "PRECISION"]


def worth_trying(configs, args, **kwargs):
    """Keep blocks no taller than M that the device holds; where operands need registers, with few sums."""
    size = args["x_ptr"].element_size()
    precision = kwargs["PRECISION"]
    found = []
    sums = 16 if size == 4 and precision == "ieee" else 128 if wgmma() else 32
    for config in configs:
        step = config.kwargs["BLOCK_M"], config.kwargs["BLOCK_N"], kwargs["BLOCK_K"]
        if step[0] <= args["M_CLASS"] and holds(config, step, size, precision, sums):
            found.append(config)
    return found or configs[:1]


@triton.jit
def stored_at(
    e, values_ptr, indices_ptr, row0, N, stride_vn, stride_in,
    K: tl.constexpr, STEPS: tl.constexpr, BLOCKS_K: tl.constexpr, KEEP: tl.constexpr, GROUP: tl.constexpr,
    BITS: tl.constexpr, SPAN: tl.constexpr, EVEN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    """Load what the tile of W of step ``e`` stores, of the last step if there are fewer."""
    e = tl.minimum(e, STEPS - 1)
    groups: tl.constexpr = (K + GROUP - 1) // GROUP
    tap, block = e // BLOCKS_K, e % BLOCKS_K
    return stored(
        values_ptr, indices_ptr, row0, tap * groups + block * (BLOCK_K // GROUP), N, (tap + 1) * groups,
        stride_vn, stride_in, KEEP, BITS, SPAN, EVEN, BLOCK_N, BLOCK_K // GROUP)


@autotune(CONFIGS, KEY, worth_trying)
@triton.jit
def semi_structured_conv_kernel(
    # tensors; bias and residual may be None
    x_ptr, values_ptr, indices_ptr, bias_ptr, residual_ptr, y_ptr,
    # sizes: images, x (H, W, K), y (P, Q, N)
    images, H, W, P, Q, N,
    # strides
    stride_vn, stride_in,
    # scalars; M_CLASS is the number of pixels rounded, for the choice of the config
    M_CLASS,
    # compile-time; K is, so that loads know how pixels are aligned
    K: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, DOWN_H: tl.constexpr, DOWN_W: tl.constexpr,
    OFFSET_H: tl.constexpr, OFFSET_W: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr,
    KEEP: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr, SPAN: tl.constexpr,
    BLOCKS_K: tl.constexpr, EVEN: tl.constexpr, HALO: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    # eight blocks of pixels side by side share the weights in L2
    M = images * P * Q
    pid = tl.program_id(0)
    blocks_n = tl.cdiv(N, BLOCK_N)
    pid_m, pid_n = tl.swizzle2d(pid // blocks_n, pid % blocks_n, tl.cdiv(M, BLOCK_M), blocks_n, 8)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    in_n = offs_n < N
    # pixels beyond the last repeat it: no mask for them in the loop, and they are not stored
    pixel = tl.minimum(offs_m, M - 1)
    p, q = pixel // Q % P, pixel % Q
    image = (pixel // (P * Q)).to(tl.int64)
    h, w = p * DOWN_H, q * DOWN_W
    x_p = x_ptr + ((image * H + h) * W + w)[:, None] * K + offs_k[None, :]
    in_y = (offs_m < M)[:, None] & in_n[None, :]
    y_offs = pixel.to(tl.int64)[:, None] * N + offs_n[None, :]
    # one bit per tap, set where it reads inside of x: two instructions per pixel and step
    reach = tl.zeros((BLOCK_M,), tl.int32)
    if HALO and KH * KW <= 32:
        for t in tl.static_range(KH * KW):
            in_h = inside(h + (OFFSET_H + t // KW * STEP_H), H)
            reach |= (in_h & inside(w + (OFFSET_W + t % KW * STEP_W), W)).to(tl.int32) << t
    acc = bias_and_residual(bias_ptr, residual_ptr, offs_n, in_n, y_offs, in_y, BLOCK_M, BLOCK_N)

    # two steps ahead what a tile of W stores is loaded, one step ahead it is spread out, beside the products
    STEPS: tl.constexpr = KH * KW * BLOCKS_K
    code, values = stored_at(
        0, values_ptr, indices_ptr, pid_n * BLOCK_N, N, stride_vn, stride_in,
        K, STEPS, BLOCKS_K, KEEP, GROUP, BITS, SPAN, EVEN, BLOCK_N, BLOCK_K)
    w_tile = tile(code, values, KEEP, GROUP, BITS, BLOCK_N, BLOCK_K // GROUP)
    code, values = stored_at(
        1, values_ptr, indices_ptr, pid_n * BLOCK_N, N, stride_vn, stride_in,
        K, STEPS, BLOCKS_K, KEEP, GROUP, BITS, SPAN, EVEN, BLOCK_N, BLOCK_K)
    for e in range(0, STEPS):
        tap, block = e // BLOCKS_K, e % BLOCKS_K
        shift_h, shift_w = OFFSET_H + tap // KW * STEP_H, OFFSET_W + tap % KW * STEP_W
        x_kp = x_p + ((shift_h * W + shift_w) * K + block * BLOCK_K)
        in_k = block * BLOCK_K + offs_k < K
        in_x = (reach & (1 << tap)) != 0 if KH * KW <= 32 else inside(h + shift_h, H) & inside(w + shift_w, W)
        if HALO and EVEN:
            x = tl.load(x_kp, mask=in_x[:, None], other=0.0)                     # (BLOCK_M, BLOCK_K)
        elif HALO:
            x = tl.load(x_kp, mask=in_x[:, None] & in_k[None, :], other=0.0)
        elif EVEN:
            x = tl.load(x_kp)
        else:
            x = tl.load(x_kp, mask=in_k[None, :], other=0.0)
        next_code, next_values = stored_at(
            e + 2, values_ptr, indices_ptr, pid_n * BLOCK_N, N, stride_vn, stride_in,
            K, STEPS, BLOCKS_K, KEEP, GROUP, BITS, SPAN, EVEN, BLOCK_N, BLOCK_K)
        acc = tl.dot(x, tl.trans(w_tile), acc, input_precision=PRECISION)
        w_tile = tile(code, values, KEEP, GROUP, BITS, BLOCK_N, BLOCK_K // GROUP)
        code, values = next_code, next_values

    tl.store(y_ptr + y_offs, activate(acc, ACTIVATION).to(y_ptr.dtype.element_ty), mask=in_y)
