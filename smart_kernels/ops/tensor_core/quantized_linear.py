"""``quantized_semi_structured_linear``: 2:4 weights of eight bits on sparse tensor cores."""

import torch
import triton
from torch import Tensor

from smart_kernels.ops.common.inputs import flat, needs_gradient, no_autocast
from smart_kernels.ops.common.library import define
from smart_kernels.ops.common.nm import check_places
from smart_kernels.ops.common.plan import checked
from smart_kernels.reference.common.epilogue import check_activation, finish
from smart_kernels.reference.common.nm import expand
from smart_kernels.shapes import groups_of

from .device import words_kernel
from .launch import matmul
from .packing import BYTES, PackedWeight, pack, unpack
from .verify import verified

OUT = (torch.bfloat16, torch.float16, torch.float32)


def quantized_semi_structured_pack(values: Tensor, indices: Tensor) -> PackedWeight:
    """Arrange the saved 2:4 form of a weight (N, K) in eight bits for the kernel; reads the indices.

    Args:
        values: (N, 2 ceil(K / 4)) int8 or float8_e4m3fn: what ``quantize_int8`` or ``quantize_fp8``
            make of the values that :func:`semi_structured_prune` returns; ``per="block"`` is one scale per row of W.
        indices: (N, ceil(K / 8)) uint8, as it returns them.

    Raises:
        ValueError: a shape, a dtype or the indices do not fit.
    """
    if values.dtype not in BYTES:
        raise ValueError(f"values must be one of {list(BYTES)}, got {values.dtype}")
    packed = pack(values, indices)
    check_places(indices, 2, 4, 4 * packed.groups)
    return packed


def quantized_semi_structured_linear(
    x: Tensor,
    weight: PackedWeight,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """Return ``activation(scale * (x @ W.T) + bias + residual)``, x and W 2:4 in int8 or float8_e4m3fn.

    Not differentiable.

    int8 is summed exactly, in int32; each product of 64 columns of fp8 is summed by the tensor core, and these in fp32.
    On a GPU it runs on sparse tensor cores or not at all: on ``mma.sp`` int8 on sm_80 and later, fp8 on sm_89 and
    sm_120; on ``wgmma.sp`` fp8 on sm_90, where these products are of 128 columns.

    Args:
        x: (..., K) int8 or float8_e4m3fn.
        weight: what :func:`quantized_semi_structured_pack` made of a weight (N, K) of the same dtype.
        scale: fp32, () or (N,): the scale of x times that of W, or of each of its rows.
        bias: (N,) bf16, fp16 or fp32, or None.
        activation: None, "relu", "relu6", "gelu", "gelu_tanh" or "silu".
        residual: (..., N) bf16, fp16 or fp32, added before the activation, or None.
        out_dtype: of the result: bf16, fp16 or fp32.

    Returns:
        (..., N).

    Raises:
        ValueError: a shape, dtype, device or activation does not fit, or the kernel must not be used on this GPU.
    """
    N = weight.out_features
    y_shape = *x.shape[:-1], N
    _check((x, weight.weight, scale, bias, residual), (N, weight.groups, activation, out_dtype))
    if needs_gradient(x, weight.weight, scale, bias, residual):
        raise ValueError("nothing may need a gradient, use torch.no_grad()")
    rest = None if residual is None else flat(residual)
    with no_autocast(x):
        y = _quantized(flat(x), weight.weight, weight.metadata, scale, bias, rest, activation, out_dtype, N)
    return y.view(y_shape)


def _refused(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why the kernel must not be used; asked once, also by the compiler."""
    return verified(device, words_kernel(device, dtype), dtype)


# all that torch.compiler.assume_constant_result does after it has imported Dynamo, which takes longer than torch
_refused._dynamo_marked_constant = True


@checked
def _check(x, weight, scale, bias, residual, N: int, groups: int, activation: str | None, out_dtype) -> None:
    """Raise ``ValueError`` unless the arguments fit and the kernel may be used."""
    check_activation(activation)
    if x.dim() == 0 or x.dtype not in BYTES or x.dtype != weight.dtype or groups_of(x.shape[-1], 4) != groups:
        expected = f"(..., K) {weight.dtype} with {groups} groups of four"
        raise ValueError(f"x must be {expected}, one of {list(BYTES)}, got {tuple(x.shape)} {x.dtype}")
    if scale.shape not in ((), (N,)) or scale.dtype != torch.float32:
        raise ValueError(f"scale must be () or ({N},) float32, got {tuple(scale.shape)} {scale.dtype}")
    for name, tensor, shape in (("bias", bias, (N,)), ("residual", residual, (*x.shape[:-1], N))):
        if tensor is not None and (tensor.shape != shape or tensor.dtype not in OUT):
            raise ValueError(f"{name} must be {tuple(shape)} of {OUT}, got {tuple(tensor.shape)} {tensor.dtype}")
    if out_dtype not in OUT:
        raise ValueError(f"out_dtype must be one of {OUT}, got {out_dtype}")
    tensors = [t for t in (x, weight, scale, bias, residual) if t is not None]
    if any(t.device != x.device for t in tensors):
        raise ValueError(f"all tensors must be on the device of x, got {[str(t.device) for t in tensors]}")
    if x.is_cuda and (reason := _refused(x.device, x.dtype)) is not None:
        raise ValueError(reason)


def _reference(x, weight, metadata, scale, bias, residual, activation, out_dtype, N):
    values, indices = unpack(PackedWeight("mma", weight, metadata, N, groups_of(x.shape[1], 4)))
    dense = expand(values.double(), indices, 2, 4, x.shape[1])
    y = (x.double() @ dense.T).float() * scale
    return finish(y, *(t if t is None else t.float() for t in (bias, residual)), activation).to(out_dtype)


def _fake(x, weight, metadata, scale, bias, residual, activation, out_dtype, N):
    return x.new_empty(x.shape[0], N, dtype=out_dtype)


@define("quantized_semi_structured_linear", reference=_reference, fake=_fake)
def _quantized(
    x: Tensor,
    weight: Tensor,
    metadata: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    out_dtype: torch.dtype,
    N: int,
) -> Tensor:
    if triton.knobs.runtime.interpret:  # it has no Gluon
        return _reference(x, weight, metadata, scale, bias, residual, activation, out_dtype, N)
    packed = PackedWeight(words_kernel(x.device, x.dtype), weight, metadata, N, groups_of(x.shape[1], 4))
    return matmul(x, packed, bias, residual, activation, scale, out_dtype).contiguous()
