"""The second half of a product whose columns were shared by programs: their sums are added in a fixed order."""

import triton
import triton.language as tl

from smart_kernels.kernels.common.epilogue import finish

from .overlap import after_launch_before


@triton.jit
def sum_pieces_kernel(
    # tensors; pieces is (SPLITS, M, N) fp32 or int32; scale, fp32, bias and residual may be None
    pieces_ptr, scale_ptr, bias_ptr, residual_ptr, y_ptr,
    # sizes
    M, N,
    # strides
    stride_s, stride_rm, stride_rn, stride_ym,
    # compile-time
    SPLITS: tl.constexpr, ACTIVATION: tl.constexpr, OVERLAPPED: tl.constexpr, BLOCK_N: tl.constexpr,
):
    """Store y = activation(scale * sum of pieces + bias + residual)."""
    after_launch_before(OVERLAPPED)
    m = tl.program_id(1).to(tl.int64)
    offs_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_n = offs_n < N
    acc = tl.zeros((BLOCK_N,), pieces_ptr.dtype.element_ty)
    for piece in tl.static_range(SPLITS):
        acc += tl.load(pieces_ptr + (piece * M + m) * N + offs_n, mask=in_n, other=0)
    acc = acc.to(tl.float32)
    if scale_ptr is not None:
        acc *= tl.load(scale_ptr + offs_n * stride_s, mask=in_n, other=0.0)
    finish(acc, bias_ptr, residual_ptr, y_ptr, m, offs_n, in_n, in_n, stride_rm, stride_rn, stride_ym, ACTIVATION, None)
