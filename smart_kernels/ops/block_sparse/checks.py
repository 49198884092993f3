"""Checks of the arguments of ``block_sparse_linear``."""

import torch
from torch import Tensor

from smart_kernels.ops.common.inputs import DTYPES, needs_gradient
from smart_kernels.ops.common.plan import checked
from smart_kernels.reference.common.epilogue import check_activation

from .stored import StoredBlocks


@checked
def check(
    x: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    index: Tensor | None,
    scale: Tensor | None,
    out_features: int,
    activation: str | None,
    out_dtype: torch.dtype | None,
) -> None:
    """Raise ``ValueError`` unless the arguments fit."""
    _check_shapes(x, StoredBlocks(values, crow_indices, col_indices, index), bias, out_features)
    if torch.float8_e4m3fn in (x.dtype, values.dtype):
        _check_fp8(x, values, bias, scale)
    elif scale is not None:
        raise ValueError(f"x and values must be float8_e4m3fn where there is a scale, got {x.dtype}, {values.dtype}")
    else:
        _check_dtypes(x, values, bias)
    check_activation(activation)
    _check_result(x, residual, out_features, out_dtype)


def _check_shapes(x: Tensor, w: StoredBlocks, bias: Tensor | None, out_features: int) -> None:
    w.check(out_features, "out_features")
    if x.dim() == 0:
        raise ValueError("x must be (..., K), got a scalar")
    if bias is not None and bias.shape != (out_features,):
        raise ValueError(f"bias must be (out_features,) = ({out_features},), got {tuple(bias.shape)}")
    tensors = [t for t in (x, w.values, bias, w.crow_indices, w.col_indices) if t is not None]
    if any(t.device != x.device for t in tensors):
        raise ValueError(f"all tensors must be on the device of x, got {[str(t.device) for t in tensors]}")
    w.check_index(w.index_size(x.shape[-1]), "block_index")


def _check_dtypes(*tensors: Tensor | None) -> None:
    dtypes = [t.dtype for t in tensors if t is not None]
    if len(set(dtypes)) > 1 or dtypes[0] not in DTYPES:
        raise ValueError(f"x, values and bias must share one of {DTYPES}, got {dtypes}")


def _check_fp8(x: Tensor, values: Tensor, bias: Tensor | None, scale: Tensor | None) -> None:
    if x.dtype != values.dtype:
        raise ValueError(f"x and values must both be float8_e4m3fn, got {x.dtype} and {values.dtype}")
    _check_scale(scale, len(values), x.device)
    if bias is not None and bias.dtype not in DTYPES:
        raise ValueError(f"bias must be one of {DTYPES} for x in float8_e4m3fn, got {bias.dtype}")


def check_no_gradient(*tensors: Tensor | None) -> None:
    """Raise ``ValueError`` if a product of float8_e4m3fn is to be differentiated."""
    if needs_gradient(*tensors):
        raise ValueError("nothing may need a gradient for x in float8_e4m3fn, which is forward only: use torch.no_grad")


def _check_scale(scale: Tensor | None, nnz: int, device: torch.device) -> None:
    if scale is None or scale.dtype != torch.float32 or scale.shape not in ((), (nnz,)):
        found = None if scale is None else (tuple(scale.shape), scale.dtype)
        raise ValueError(f"scale must be () or ({nnz},) float32 for values in float8_e4m3fn, got {found}")
    if scale.device != device:
        raise ValueError(f"scale must be on the device of x, {device}, got {scale.device}")


def _check_result(x: Tensor, residual: Tensor | None, out_features: int, out_dtype: torch.dtype | None) -> None:
    shape = *x.shape[:-1], out_features
    if residual is not None and (residual.shape != shape or residual.device != x.device):
        raise ValueError(
            f"residual must be {tuple(shape)} on {x.device} like the result, got {tuple(residual.shape)} on "
            f"{residual.device}"
        )
    if out_dtype is not None and out_dtype not in DTYPES:
        raise ValueError(f"out_dtype must be one of {DTYPES}, got {out_dtype}")
