"""Numbers of eight bits and the fp32 factors that make them what they were."""

import torch
from torch import Tensor


def quantize_fp8(tensor: Tensor, per: str = "tensor") -> tuple[Tensor, Tensor]:
    """Quantize ``tensor`` to ``values * scale`` with values in float8_e4m3fn: the largest becomes 448, the largest fp8.

    Needs no synchronisation. Zeros have scale 1; what is not finite makes its scale NaN or infinite.

    Args:
        tensor: (...) floating.
        per: "tensor": one scale; "block": one per entry of the first dimension, for (nnz, bn, bk) stored blocks.

    Returns:
        float8_e4m3fn of the same shape, and fp32 () or (len(tensor),).

    Raises:
        ValueError: ``per`` is neither, or there is no first dimension to be scaled along.
    """
    return _quantized(tensor, per, torch.float8_e4m3fn)


def quantize_int8(tensor: Tensor, per: str = "tensor") -> tuple[Tensor, Tensor]:
    """Quantize ``tensor`` to ``values * scale`` with values rounded to int8: the largest becomes 127.

    Otherwise it is as ``quantize_fp8``.

    Args:
        tensor: (...) floating.
        per: "tensor": one scale; "block": one per entry of the first dimension, such as the rows of a weight.

    Returns:
        int8 of the same shape, and fp32 () or (len(tensor),).

    Raises:
        ValueError: ``per`` is neither, or there is no first dimension to be scaled along.
    """
    return _quantized(tensor, per, torch.int8)


def _quantized(tensor: Tensor, per: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if per not in ("tensor", "block") or (per == "block" and tensor.dim() == 0):
        raise ValueError(f'per must be "tensor", or "block" for (blocks, ...), got {per!r} for {tuple(tensor.shape)}')
    info = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    largest = info.max
    wide = tensor.detach().float()
    shape = (len(tensor),) if per == "block" else ()
    if not wide.numel():
        return wide.to(dtype), wide.new_ones(shape)
    rows = wide.reshape(*(shape or (1,)), -1)
    scale = rows.abs().amax(1) / largest
    scale = torch.where(scale == 0, 1.0, scale)
    values = (rows / scale[:, None]).clamp(-largest, largest).view(wide.shape)
    return (values if dtype.is_floating_point else values.round()).to(dtype), scale.view(shape)
