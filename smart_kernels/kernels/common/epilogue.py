"""What a matrix product still does with its sums before they are stored: activation(sums + bias + residual)."""

import triton
import triton.language as tl


@triton.jit
def activate(acc, ACTIVATION: tl.constexpr):
    """acc fp32; ACTIVATION is None or a key of ``reference.epilogue.ACTIVATIONS``."""
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
