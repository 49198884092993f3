"""Questions to the inputs of ops, and the forms they are brought into before a launch."""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

KINDS = ("cpu", "cuda", "xpu", "hpu", "mps")
AUTOCASTS = frozenset(kind for kind in KINDS if torch.amp.is_autocast_available(kind))  # Dynamo of 2.11 cannot ask
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # what products take
ALREADY = nullcontext()


def autocast(x: Tensor) -> Tensor:
    """Return ``x`` as autocast would hand it to ``F.linear``."""
    return x.to(autocast_dtype(x))


def autocast_all(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return each tensor as ``autocast`` does, None as None."""
    return tuple(t if t is None else autocast(t) for t in tensors)


def contiguous(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return each tensor with its rows next to each other, None as None."""
    return tuple([t if t is None else t.contiguous() for t in tensors])


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Return whether autograd would follow an op of these inputs."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def autocasts(x: Tensor) -> bool:
    """Return whether autocast is on for the device of ``x``; the meta device has none."""
    kind = x.device.type
    return kind in AUTOCASTS and torch.is_autocast_enabled(kind)


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that autocast gives ``x``; its own without autocast."""
    return torch.get_autocast_dtype(x.device.type) if autocasts(x) and x.dtype != torch.float64 else x.dtype


def no_autocast(x: Tensor) -> AbstractContextManager:
    """Return a context without autocast on the device of ``x``."""
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else ALREADY


def flat(x: Tensor) -> Tensor:
    """View (..., K) as (M, K), also if K = 0."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # numel() of a Size would make a dynamic batch a number


def unsuited(x: Tensor, weight: Tensor, mask: Tensor) -> bool:
    """Return whether the reference has to do it: the kernels do not sum in fp64, and empty tensors need no launch."""
    return torch.float64 in (x.dtype, weight.dtype, mask.dtype) or 0 in (*x.shape, *weight.shape)


def temperature_of(temperature: float | Tensor, scores: Tensor) -> Tensor:
    """Return the temperature as a float64 tensor on the device of the scores; raise ``ValueError`` unless it fits."""
    if isinstance(temperature, Tensor):
        if temperature.dim() != 0:
            raise ValueError(f"temperature must be a float or a 0-d tensor, got {tuple(temperature.shape)}")
        return temperature.detach().to(scores.device, torch.float64)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return torch.full((), temperature, dtype=torch.float64, device=scores.device)
