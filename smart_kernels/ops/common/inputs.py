"""What ops ask of their inputs, and do with them, before they launch."""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # what products take


def autocast(x: Tensor) -> Tensor:
    """``x`` as autocast would hand it to ``F.linear``."""
    return x.to(autocast_dtype(x))


def autocast_all(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return each tensor as ``autocast`` does, None as None."""
    return tuple(t if t is None else autocast(t) for t in tensors)


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Return whether autograd would follow an op of these inputs."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


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
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # numel() of a Size would make a dynamic batch a number


def unsuited(x: Tensor, weight: Tensor, mask: Tensor) -> bool:
    """Tensor cores have no path for fp64 as we use it, and nothing needs no launch."""
    return torch.float64 in (x.dtype, weight.dtype, mask.dtype) or 0 in (*x.shape, *weight.shape)
