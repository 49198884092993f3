"""2:4 for few rows of x: memory is read once, so what counts is instructions per weight.

    pair   int32 = values 0 and 1 of a group of four       low   int32 = weights 0 and 1
    nibble a bit for each of the four places               high  int32 = weights 2 and 3

Both halves come from the pair by shifts and selects, two weights at a time, and go into two products of depth 16 with
the columns of x they belong to; no weight passes through shared memory. One int32 holds the nibbles of eight groups
32 columns apart, so it has the layout of the pairs. K is split over programs, their fp32 sums are added in order by
``split_sum_kernel``. Two warps: four would make the products wgmma, and tcgen05 with a barrier each on sm_100.
"""

import triton
import triton.language as tl

from smart_kernels.kernels.common.epilogue import finish
from smart_kernels.kernels.common.tuning import autotune

TILE = tl.constexpr(256)  # columns of W in a step: eight groups for each of eight words
CONFIGS = [  # the first is valid for every shape
    triton.Config({"BLOCK_M": 16, "BLOCK_N": 64}, num_warps=2, num_stages=3),
    triton.Config({"BLOCK_M": 16, "BLOCK_N": 64}, num_warps=2, num_stages=4),
    triton.Config({"BLOCK_M": 32, "BLOCK_N": 64}, num_warps=2, num_stages=3, maxnreg=255),
]


def worth_trying(configs, args, **kwargs):
    """Keep the configurations with one block of M where that is enough, else those with the tallest."""
    tallest = max(config.kwargs["BLOCK_M"] for config in configs)
    wanted = 16 if args["M"] <= 16 else tallest
    return [config for config in configs if config.kwargs["BLOCK_M"] == wanted]


@triton.jit
def halves(pair, nibble):
    """Turn two values and their places into weights 0 and 1 and weights 2 and 3, each pair in an int32."""
    both = pair.to(tl.uint32, bitcast=True)
    low = tl.where((nibble & 1) != 0, both, both << 16)
    low = tl.where((nibble & 2) != 0, low, low & 0xFFFF)
    high = tl.where((nibble & 8) != 0, both, both >> 16)
    high = tl.where((nibble & 4) != 0, high, high & 0xFFFF0000)
    return low.to(tl.int32, bitcast=True), high.to(tl.int32, bitcast=True)


@triton.jit
def unpacked(pairs, DTYPE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Turn (BLOCK_N, 8) int32 into (BLOCK_N, 16) weights."""
    first = (pairs & 0xFFFF).to(tl.int16).to(DTYPE, bitcast=True)
    second = ((pairs >> 16) & 0xFFFF).to(tl.int16).to(DTYPE, bitcast=True)
    return tl.reshape(tl.join(first, second), (BLOCK_N, 16))


@autotune(CONFIGS, ["M_CLASS", "N", "K"], worth_trying)
@triton.jit
def semi_structured_decode_kernel(
    # tensors; values as int32 pairs; y is (splits, M, N) fp32 where SPLIT; bias and residual may be None
    x_ptr, values_ptr, words_ptr, bias_ptr, residual_ptr, y_ptr,
    # sizes
    M, N, K,
    # strides
    stride_xm, stride_vn, stride_wn, stride_rm, stride_rn, stride_ys, stride_ym,
    # scalars; M_CLASS is M rounded, for the choice of the config
    M_CLASS, splits,
    # compile-time
    SPLIT: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    pid_n, pid_k, pid_m = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_g = tl.arange(0, 8)
    # columns 0 and 1 of eight groups; 2 and 3 lie two further
    offs_k = tl.arange(0, 16) // 2 * 4 + tl.arange(0, 16) % 2

    whole = K // TILE
    share = tl.cdiv(whole, splits)
    start = pid_k * share
    end = tl.minimum(start + share, whole)
    # rows beyond the edges repeat the last one: no mask in the loop, and they are not stored
    rows_m, rows_n = tl.minimum(offs_m, M - 1).to(tl.int64), tl.minimum(offs_n, N - 1).to(tl.int64)
    x_p = x_ptr + rows_m[None, :] * stride_xm + offs_k[:, None]
    value_p = values_ptr + rows_n[:, None] * stride_vn + offs_g[None, :]
    word_p = words_ptr + rows_n[:, None] * stride_wn + offs_g[None, :]
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty

    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    if end > start:  # a loop that may not run would serialize wgmma
        x_kp = x_p + start * TILE
        value_kp = value_p + start * (TILE // 4)
        word_kp = word_p + start * 8
        for _ in range(start, end):
            words = tl.load(word_kp)                                          # (BLOCK_N, 8)
            for h in tl.static_range(8):
                low, high = halves(tl.load(value_kp + h * 8), words >> (4 * h))
                acc = tl.dot(unpacked(low, DTYPE, BLOCK_N), tl.load(x_kp + h * 32), acc)
                acc = tl.dot(unpacked(high, DTYPE, BLOCK_N), tl.load(x_kp + h * 32 + 2), acc)
            x_kp += TILE
            value_kp += TILE // 4
            word_kp += 8
    if pid_k == splits - 1:
        for k0 in tl.range(whole * TILE, K, 32, num_stages=1):  # what is left; words have no bits beyond K
            words = tl.load(word_p + whole * 8) >> ((k0 - whole * TILE) // 8)
            in_v = k0 // 4 + offs_g < tl.cdiv(K, 4)
            low, high = halves(tl.load(value_p + k0 // 4, mask=in_v[None, :], other=0), words)
            x_low = tl.load(x_p + k0, mask=(k0 + offs_k < K)[:, None], other=0.0)
            x_high = tl.load(x_p + k0 + 2, mask=(k0 + 2 + offs_k < K)[:, None], other=0.0)
            acc = tl.dot(unpacked(low, DTYPE, BLOCK_N), x_low, acc)
            acc = tl.dot(unpacked(high, DTYPE, BLOCK_N), x_high, acc)

    in_n = offs_n < N
    offs_m = offs_m.to(tl.int64)
    in_y = in_n[:, None] & (offs_m < M)[None, :]
    if SPLIT:
        y_p = y_ptr + pid_k.to(tl.int64) * stride_ys + offs_m[None, :] * stride_ym + offs_n[:, None]
        tl.store(y_p, acc, mask=in_y)
    else:
        finish(
            acc, bias_ptr, residual_ptr, y_ptr, offs_m, offs_n, in_n, in_y, stride_rm, stride_rn, stride_ym,
            ACTIVATION, 1)


@triton.jit
def split_sum_kernel(
    # tensors; bias and residual may be None
    sums_ptr, bias_ptr, residual_ptr, y_ptr,
    # sizes
    N, splits,
    # strides
    stride_ss, stride_sm, stride_rm, stride_rn, stride_ym,
    # compile-time
    ACTIVATION: tl.constexpr, BLOCK_N: tl.constexpr,
):
    """Sum what all splits have, always in the same order, and finish the product."""
    pid_m = tl.program_id(0).to(tl.int64)
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_n = offs_n < N
    acc = tl.zeros((BLOCK_N,), tl.float32)
    sum_p = sums_ptr + pid_m * stride_sm + offs_n
    for _ in range(splits):
        acc += tl.load(sum_p, mask=in_n, other=0.0)
        sum_p += stride_ss
    finish(
        acc, bias_ptr, residual_ptr, y_ptr, pid_m, offs_n, in_n, in_n, stride_rm, stride_rn, stride_ym,
        ACTIVATION, None)
