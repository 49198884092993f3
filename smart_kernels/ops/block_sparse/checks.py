"""Checks of the arguments of ``block_sparse_linear``."""

import torch
from torch import Tensor

from smart_kernels.ops.common.inputs import DTYPES, needs_gradient
from smart_kernels.reference.common.epilogue import check_activation


def check(x, values, crow_indices, col_indices, bias, out_features) -> None:
    """Raise ``ValueError`` unless shapes and devices fit."""
    if values.dim() != 3 or 0 in values.shape[1:]:
        raise ValueError(f"values must be (nnz, bn, bk) with bn, bk >= 1, got {tuple(values.shape)}")
    expected = {"crow_indices": (-(-out_features // values.shape[1]) + 1,), "col_indices": (len(values),)}
    for name, indices in (("crow_indices", crow_indices), ("col_indices", col_indices)):
        if indices.shape != expected[name] or indices.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"{name} must be {expected[name]} int32 or int64 for values {tuple(values.shape)} and "
                f"out_features {out_features}, got {tuple(indices.shape)} {indices.dtype}"
            )
    if x.dim() == 0:
        raise ValueError("x must be (..., K), got a scalar")
    if bias is not None and bias.shape != (out_features,):
        raise ValueError(f"bias must be (out_features,) = ({out_features},), got {tuple(bias.shape)}")
    tensors = [t for t in (x, values, bias, crow_indices, col_indices) if t is not None]
    if any(t.device != x.device for t in tensors):
        raise ValueError(f"all tensors must be on the device of x, got {[str(t.device) for t in tensors]}")


def check_dtypes(*tensors: Tensor | None) -> None:
    """Raise ``ValueError`` unless all share one dtype that the op takes."""
    dtypes = [t.dtype for t in tensors if t is not None]
    if len(set(dtypes)) > 1 or dtypes[0] not in DTYPES:
        raise ValueError(f"x, values and bias must share one of {DTYPES}, got {dtypes}")


def check_fp8(x, values, bias, residual, scale) -> bool:
    """Whether this is a product of float8_e4m3fn; raise ``ValueError`` unless all fits one."""
    if torch.float8_e4m3fn not in (x.dtype, values.dtype):
        if scale is not None:
            raise ValueError(
                f"x and values must be float8_e4m3fn where there is a scale, got {x.dtype}, {values.dtype}"
            )
        return False
    if x.dtype != values.dtype:
        raise ValueError(f"x and values must both be float8_e4m3fn, got {x.dtype} and {values.dtype}")
    if scale is None or scale.dtype != torch.float32 or scale.shape not in ((), (len(values),)):
        found = None if scale is None else (tuple(scale.shape), scale.dtype)
        raise ValueError(f"scale must be () or ({len(values)},) float32 for values in float8_e4m3fn, got {found}")
    if scale.device != x.device:
        raise ValueError(f"scale must be on the device of x, {x.device}, got {scale.device}")
    if bias is not None and bias.dtype not in DTYPES:
        raise ValueError(f"bias must be one of {DTYPES} for x in float8_e4m3fn, got {bias.dtype}")
    if needs_gradient(x, values, bias, residual, scale):
        raise ValueError("nothing may need a gradient for x in float8_e4m3fn, which is forward only: use torch.no_grad")
    return True


def check_epilogue(x, activation, residual, out_dtype, shape) -> None:
    """Raise ``ValueError`` unless what follows the sums fits a result of ``shape``."""
    check_activation(activation)
    if residual is not None and (residual.shape != shape or residual.device != x.device):
        raise ValueError(
            f"residual must be {tuple(shape)} on {x.device} like the result, got {tuple(residual.shape)} on "
            f"{residual.device}"
        )
    if out_dtype is not None and out_dtype not in DTYPES:
        raise ValueError(f"out_dtype must be one of {DTYPES}, got {out_dtype}")


def check_index(index: Tensor | None, crow_indices: Tensor, values: Tensor, in_features: int) -> None:
    """Raise ``ValueError`` unless ``index`` has the size of one made of such indices."""
    if index is None:
        return
    size = len(crow_indices) - 1 + 2 * (-(-in_features // values.shape[2]) + len(values))
    if index.shape != (size,) or index.dtype != torch.int32 or index.device != values.device:
        raise ValueError(
            f"index must be ({size},) int32 on {values.device}, as block_index makes it of these indices, got "
            f"{tuple(index.shape)} {index.dtype} on {index.device}"
        )
