"""Numbers of eight bits and the fp32 factors that make them what they were."""

import torch
from torch import Tensor


def quantize_fp8(tensor: Tensor, per: str = "tensor") -> tuple[Tensor, Tensor]:
    """``tensor`` as ``values * scale``, values in float8_e4m3fn: what is largest becomes 448, the largest fp8.

    Needs no synchronisation. Zeros have scale 1; what is not finite makes its scale NaN or infinite.

    Args:
        tensor: (...) floating.
        per: "tensor": one scale; "block": one per entry of the first dimension, for (nnz, bn, bk) stored blocks.

    Returns:
        float8_e4m3fn of the same shape, and fp32 () or (len(tensor),).

    Raises:
        ValueError: ``per`` is neither, or there is no first dimension to be scaled along.
    """
    if per not in ("tensor", "block") or (per == "block" and tensor.dim() == 0):
        raise ValueError(f'per must be "tensor", or "block" for (blocks, ...), got {per!r} for {tuple(tensor.shape)}')
    largest, wide = torch.finfo(torch.float8_e4m3fn).max, tensor.detach().float()
    shape = (len(tensor),) if per == "block" else ()
    if not wide.numel():
        return wide.to(torch.float8_e4m3fn), wide.new_ones(shape)
    rows = wide.reshape(*(shape or (1,)), -1)
    scale = rows.abs().amax(1) / largest
    scale = torch.where(scale == 0, 1.0, scale)
    values = (rows / scale[:, None]).clamp(-largest, largest).view(wide.shape).to(torch.float8_e4m3fn)
    return values, scale.view(shape)
