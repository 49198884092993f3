"""What the linear ops do with their arguments before they launch."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from smart_kernels.shapes.tiles import grid


def check_linear(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, name: str, tile: tuple[int, int], eps: float
) -> None:
    """Raise ``ValueError`` unless the arguments fit; ``name`` is what the caller calls its mask."""
    if weight.dim() != 2:
        raise ValueError(f"weight must be (N, K), got {tuple(weight.shape)}")
    N, K = weight.shape
    if x.dim() < 1 or x.shape[-1] != K:
        raise ValueError(f"x must be (..., {K}) for weight {(N, K)}, got {tuple(x.shape)}")
    if len(tile) != 2 or min(tile) < 1:
        raise ValueError(f"tile must be two positive sizes, got {tile}")
    if mask.shape != grid((N, K), tile):
        raise ValueError(
            f"{name} must be {grid((N, K), tile)} for weight {(N, K)} and tile {tile}, got {tuple(mask.shape)}"
        )
    if bias is not None and bias.shape != (N,):
        raise ValueError(f"bias must be {(N,)} for weight {(N, K)}, got {tuple(bias.shape)}")
    if not 0 <= eps < 1:
        raise ValueError(f"eps must be in [0, 1), got {eps}")
    for other, tensor in (("weight", weight), (name, mask), ("bias", bias)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{other} must be on the device of x, {x.device}, got {tensor.device}")


def autocast(x: Tensor) -> Tensor:
    """``x`` as autocast would hand it to ``F.linear``."""
    return x.to(autocast_dtype(x))


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype that autocast gives ``x``; its own without autocast."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return x.dtype


def no_autocast(x: Tensor) -> AbstractContextManager:
    """Autocast switched off on the device of ``x``; the meta device has none to switch off."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def flat(x: Tensor) -> Tensor:
    """(..., K) -> (M, K), also if K = 0."""
    return x.reshape(x.shape[:-1].numel(), x.shape[-1])


def unsuited(x: Tensor, weight: Tensor, mask: Tensor) -> bool:
    """Tensor cores have no path for fp64 as we use it, and nothing needs no launch."""
    return torch.float64 in (x.dtype, weight.dtype, mask.dtype) or 0 in (*x.shape, *weight.shape)
