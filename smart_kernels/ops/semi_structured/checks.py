"""Checks of the arguments of ``semi_structured_linear`` and ``semi_structured_conv2d``."""

import torch
from torch import Tensor

from smart_kernels.ops.common.conv_inputs import check_geometry
from smart_kernels.ops.common.inputs import DTYPES
from smart_kernels.ops.common.plan import checked
from smart_kernels.reference.common.epilogue import check_activation
from smart_kernels.shapes import Conv, groups_of, index_bits


@checked
def check(
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    n: int,
    m: int,
    activation: str | None,
    transposable: bool,
) -> None:
    """Raise ``ValueError`` unless the arguments fit."""
    _check_kept(n, m)
    check_activation(activation)
    if x.dim() == 0 or values.dim() != 2:
        raise ValueError(f"x must be (..., K) and values (N, kept), got {tuple(x.shape)} and {tuple(values.shape)}")
    N, K = len(values), x.shape[-1]
    stored = groups_of(K, m) * n
    if values.shape[1] != stored:
        raise ValueError(f"values must be (N, {stored}) for x (..., {K}) at {n}:{m}, got {tuple(values.shape)}")
    _check_indices(indices, (N, -(-stored * index_bits(m) // 8)))
    if transposable and ((n, m) != (2, 4) or N % 4 or K % 4):
        raise ValueError(f"transposable needs 2:4 with N and K divisible by 4, got {n}:{m} with N={N}, K={K}")
    _check_bias(bias, N)
    if residual is not None and residual.shape != (*x.shape[:-1], N):
        raise ValueError(f"residual must be {(*x.shape[:-1], N)}, got {tuple(residual.shape)}")
    _check_devices(x, values, indices, bias, residual)
    _check_dtypes(x, values, bias, residual)


@checked
def check_conv(
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    n: int,
    m: int,
    activation: str | None,
    conv: Conv,
) -> None:
    """Raise ``ValueError`` unless the arguments fit."""
    _check_kept(n, m)
    if x.dim() != 4 or values.dim() != 2:
        raise ValueError(f"x must be (B, C, H, W) and values (N, kept), got {tuple(x.shape)}, {tuple(values.shape)}")
    check_geometry(conv)
    check_activation(activation)
    N, (B, C) = len(values), x.shape[:2]
    stored = conv.taps * groups_of(C, m) * n
    if values.shape[1] != stored or not stored:
        expected = f"values must be (N, {stored}) for one group of {C} channels, {conv.taps} taps, {n}:{m}"
        raise ValueError(f"{expected}, got {tuple(values.shape)}")
    _check_indices(indices, (N, -(-stored * index_bits(m) // 8)))
    size = conv.output_size(*x.shape[2:])
    if min(size) < 1:
        raise ValueError(f"the output must have a pixel, got {size} for x {tuple(x.shape)} and {conv}")
    _check_bias(bias, N)
    if residual is not None and residual.shape != (B, N, *size):
        raise ValueError(f"residual must have the shape of the result, {(B, N, *size)}, got {tuple(residual.shape)}")
    _check_devices(x, values, indices, bias, residual)
    _check_dtypes(x, values, bias, residual)


def _check_indices(indices: Tensor, saved: tuple[int, int]) -> None:
    if indices.shape != saved or indices.dtype != torch.uint8:
        raise ValueError(f"indices must be {saved} uint8, got {tuple(indices.shape)} {indices.dtype}")


def _check_bias(bias: Tensor | None, N: int) -> None:
    if bias is not None and bias.shape != (N,):
        raise ValueError(f"bias must be ({N},), got {tuple(bias.shape)}")


def _check_dtypes(*tensors: Tensor | None) -> None:
    dtypes = [t.dtype for t in tensors if t is not None]
    if len(set(dtypes)) > 1 or dtypes[0] not in DTYPES:
        raise ValueError(f"x, values, bias and residual must share one of {DTYPES}, got {dtypes}")


def _check_kept(n: int, m: int) -> None:
    if m not in (2, 4, 8) or not 0 < n < m:
        raise ValueError(f"n:m must keep 0 < n < m with m = 2, 4 or 8, got {n}:{m}")


def _check_devices(x: Tensor, *others: Tensor | None) -> None:
    devices = [str(t.device) for t in (x, *others) if t is not None]
    if len(set(devices)) > 1:
        raise ValueError(f"all tensors must be on the device of x, got {devices}")
