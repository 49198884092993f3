"""Repairs of Triton's interpreter, so that TRITON_INTERPRET=1 computes what a GPU computes.

1. numpy >= 2.4 refuses ``int()`` of a one-element array, so every run-time loop bound fails (triton 3.6 only).
2. bfloat16 is kept as uint16 bit patterns and arithmetic, comparisons and ``tl.dot`` run on those integers: silently
   wrong. Here they run in float32 and are rounded to nearest even.
3. float32 to bfloat16 truncates; a GPU rounds to nearest even.
"""

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

TensorHandle, Builder = interpreter.TensorHandle, interpreter.InterpreterBuilder
COMPARISONS = {np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal}
BITWISE = {np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.left_shift, np.right_shift}


def is_bf16(handle) -> bool:
    return handle.dtype.scalar == tl.bfloat16


def to_float32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def repair() -> None:
    """Patch the interpreter of the installed triton; call once, before the first kernel is launched."""
    _index_from_array()
    _bf16_arithmetic()
    _bf16_rounding()


def _index_from_array() -> None:
    patch = interpreter._patch_lang_tensor

    def patched(tensor, scope, *args, **kwargs):
        result = patch(tensor, scope, *args, **kwargs)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))
        return result

    interpreter._patch_lang_tensor = patched


def _bf16_arithmetic() -> None:
    dot, binary = Builder.create_dot, Builder.binary_op

    def create_dot(self, a, b, d, *rest):
        a, b = (TensorHandle(to_float32(h.data), tl.float32) if is_bf16(h) else h for h in (a, b))
        return dot(self, a, b, d, *rest)

    def binary_op(self, left, right, op):
        if not is_bf16(left) or op in BITWISE:
            return binary(self, left, right, op)
        out = op(to_float32(left.data), to_float32(right.data))
        return TensorHandle(out, tl.int1) if op in COMPARISONS else TensorHandle(to_bfloat16(out), tl.bfloat16)

    Builder.create_dot, Builder.binary_op = create_dot, binary_op
    if hasattr(Builder, "unary_op"):
        unary = Builder.unary_op

        def unary_op(self, arg, op):
            if not is_bf16(arg):
                return unary(self, arg, op)
            return TensorHandle(to_bfloat16(op(to_float32(arg.data))), tl.bfloat16)

        Builder.unary_op = unary_op
    if not hasattr(Builder, "get_bf16"):
        Builder.get_bf16 = lambda self, v: TensorHandle(to_bfloat16(np.array([v], np.float32)), tl.bfloat16)


def _bf16_rounding() -> None:
    convert = interpreter._convert_float

    def convert_float(values, source, target, rounding):
        if source == tl.float32 and target == tl.bfloat16:
            return to_bfloat16(values)
        if source == tl.bfloat16 and target == tl.float32:
            return to_float32(values)
        return convert(values, source, target, rounding)

    interpreter._convert_float = convert_float
