"""The end of every matrix product: y = activation(sums + bias + residual), added up in fp32.

``bias_ptr`` (N,) and ``residual_ptr`` (M, N) may be None. M_AXIS is the axis of the sums along which M lies: 0 for
(M, N), 1 for (N, M), None for one row of y.
"""

import triton
import triton.language as tl


@triton.jit
def activate(acc, ACTIVATION: tl.constexpr):
    """Apply an activation to fp32 sums: None or a key of ``reference.common.epilogue.ACTIVATIONS``."""
    if ACTIVATION == "relu":
        acc = tl.where(acc < 0.0, 0.0, acc)  # NaN stays NaN
    elif ACTIVATION == "gelu":
        acc = 0.5 * acc * (1.0 + tl.erf(acc * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        # tanh(u) = 2 sigmoid(2 u) - 1
        acc = acc * tl.sigmoid(1.5957691216057308 * (acc + 0.044715 * acc * acc * acc))
    elif ACTIVATION == "silu":
        acc = acc * tl.sigmoid(acc)
    elif ACTIVATION == "relu6":
        acc = tl.where(acc < 0.0, 0.0, tl.where(acc > 6.0, 6.0, acc))
    return acc


@triton.jit
def along_m(t, M_AXIS: tl.constexpr):
    """Return a value per row of y, to be broadcast against the sums."""
    return t if M_AXIS is None else tl.expand_dims(t, 1 - M_AXIS)


@triton.jit
def along_n(t, M_AXIS: tl.constexpr):
    """Return a value per column of y, to be broadcast against the sums."""
    return t if M_AXIS is None else tl.expand_dims(t, M_AXIS)


@triton.jit
def add_bias(acc, bias_ptr, offs_n, in_n, M_AXIS: tl.constexpr):
    """Return acc + bias."""
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + offs_n, mask=in_n, other=0.0).to(tl.float32)
        acc += along_n(bias, M_AXIS)
    return acc


@triton.jit
def load_residual(residual_ptr, offs_m, offs_n, inside, stride_rm, stride_rn, M_AXIS: tl.constexpr):
    """Return the residual in fp32; rows and columns as in ``finish``."""
    residual_p = residual_ptr + along_m(offs_m, M_AXIS) * stride_rm
    residual_p += along_n(offs_n.to(tl.int64), M_AXIS) * stride_rn
    return tl.load(residual_p, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def bias_and_residual(
    bias_ptr, residual_ptr, offs_n, in_n, offsets, inside, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):
    """Return what sums may start from: after a loop it would need registers beside them. The residual lies like y."""
    acc = add_bias(tl.zeros((BLOCK_M, BLOCK_N), tl.float32), bias_ptr, offs_n, in_n, 0)
    if residual_ptr is not None:
        acc += tl.load(residual_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    return acc


@triton.jit
def finish(
    acc, bias_ptr, residual_ptr, y_ptr, offs_m, offs_n, in_n, inside, stride_rm, stride_rn, stride_ym,
    ACTIVATION: tl.constexpr, M_AXIS: tl.constexpr,
):
    """Store y of the rows ``offs_m``, int64 (one number where M_AXIS is None), and the columns ``offs_n``."""
    acc = add_bias(acc, bias_ptr, offs_n, in_n, M_AXIS)
    if residual_ptr is not None:
        acc += load_residual(residual_ptr, offs_m, offs_n, inside, stride_rm, stride_rn, M_AXIS)
    acc = activate(acc, ACTIVATION)
    y_p = y_ptr + along_m(offs_m, M_AXIS) * stride_ym + along_n(offs_n, M_AXIS)
    tl.store(y_p, acc.to(y_ptr.dtype.element_ty), mask=inside)
