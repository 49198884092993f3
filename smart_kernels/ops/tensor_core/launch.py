"""The product with a 2:4 weight on sparse tensor cores, decided once for tensors alike. No host synchronisation."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.ops.common.inputs import contiguous
from smart_kernels.ops.common.launch import aligned, all_given
from smart_kernels.ops.common.library import on_device
from smart_kernels.ops.common.plan import Planned

from .mma import plan_mma
from .packing import PackedWeight
from .wgmma import plan_wgmma, width


def matmul(
    x: Tensor,
    packed: PackedWeight,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    scale: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return ``activation(x @ W.T + bias + residual)``, (M, N), accumulated in fp32, or exactly in int32.

    Args:
        x: (M, K) of the weight's dtype, any strides; copied unless its rows are whole and 16-byte aligned.
        packed: the weight (N, K).
        bias, residual, activation: (N,), (M, N) and a key of ``reference.common.epilogue.ACTIVATIONS``, or None.
        scale, dtype: for weights of 8 bits: () or (N,) fp32, what the sums are multiplied by; of the result.
    """
    tensors = all_given(x, packed.weight, packed.metadata, scale, *contiguous(bias), residual)
    return _there(x, tensors, (packed.kernel, packed.out_features, packed.groups, activation, dtype, aligned(x)))


@Planned
def _product(
    x, weight, metadata, scale, bias, residual,
    kernel: str, N: int, groups: int, activation: str | None, dtype: torch.dtype | None, x_aligned: bool,
) -> Callable:  # fmt: skip
    _check(x, weight.dtype, groups)
    if not x.shape[0] * N:
        return lambda x, *others: like(x, N, kernel, dtype)
    ready = _plan_rows(x, x_aligned)
    rows = ready(torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta"))
    packed = PackedWeight(kernel, weight, metadata, N, groups)
    plan = plan_mma if kernel == "mma" else plan_wgmma
    multiply = plan(rows, packed, (scale, bias, residual), activation, dtype or x.dtype)

    def run(x, *others):
        y = like(x, N, kernel, dtype)
        multiply(ready(x), *others, y)
        return y

    return run


_there = on_device(lambda x, tensors, settings: _product(tensors, settings))  # not only operators call it


def _check(x: Tensor, dtype: torch.dtype, groups: int) -> None:
    if x.dtype != dtype or -(-x.shape[1] // 4) != groups:
        raise ValueError(f"x must be (M, K) {dtype} with {groups} groups of four, got {tuple(x.shape)} {x.dtype}")


def like(x: Tensor, N: int, kernel: str, dtype: torch.dtype | None = None) -> Tensor:
    """Return an empty result of ``matmul`` for x (M, K); TMA writes rows of whole 16 bytes."""
    return x.new_empty(x.shape[0], N if kernel == "mma" else width(N), dtype=dtype)[:, :N]


def _plan_rows(x: Tensor, x_aligned: bool) -> Callable[[Tensor], Tensor]:
    """Return what makes x as 16-byte copies can read it; columns are added where a row is not whole."""
    chunk, K = 16 // x.itemsize, x.shape[1]
    if K % chunk:
        bits = torch.int8 if x.itemsize == 1 else x.dtype  # fp8 cannot be padded
        return lambda x: F.pad(x.view(bits), (0, -K % chunk)).view(x.dtype)
    if x_aligned and x.stride(1) == 1 and x.stride(0) % chunk == 0 and x.stride(0) >= K:
        return lambda x: x
    return lambda x: x.clone(memory_format=torch.contiguous_format)
