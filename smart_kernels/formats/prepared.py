"""The state of tensors that a fast path was built for, and whether it may be used: asked at every call."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack as modes

GEOMETRIES = 8  # how many geometries a format stays prepared for: layers that share it may have several

PLAIN = (Tensor, nn.Parameter)  # others (fake, nested, distributed) may have no numbers, or not all of them


class Prepared(NamedTuple):
    """A fast path's own form of the stored tensors.

    Attributes:
        built_for: the state of the tensors at that time, see ``state``.
        memory: aliases of the tensors: while they live, no other tensor can lie at the same address.
        by_geometry: what was built, for each geometry.
    """

    built_for: tuple
    memory: tuple[Tensor, ...]
    by_geometry: dict


def state(*tensors: Tensor | None) -> tuple:
    """Return what changes when one of the tensors does: in place, moved, converted or replaced."""
    return tuple(
        [
            (t.data_ptr(), 0 if t.is_inference() else t._version, t.dtype, t.get_device())
            for t in tensors
            if t is not None
        ]
    )


def alike(tensor: Tensor, other: Tensor) -> bool:
    """Return whether both are of one dtype on one device."""
    return tensor.dtype == other.dtype and tensor.device == other.device


def eager_inference(x: Tensor, *tensors: Tensor | None) -> bool:
    """Return whether a prepared fast path may stand in: numbers in memory, no gradient, no compiler, no autocast, and
    nobody who watches the single operations."""
    if torch.compiler.is_compiling() or x.is_meta or torch.is_autocast_enabled(x.device.type):
        return False
    if type(x) not in PLAIN or x.layout is not torch.strided or x._is_zerotensor() or _watched():
        return False
    return not torch.is_grad_enabled() or not any(t is not None and t.requires_grad for t in (x, *tensors))


def _watched() -> bool:
    """Return whether operations are traced, transformed or counted: what a fast path does besides is not seen.

    A mode whose class says ``unseen`` does nothing of that.
    """
    return (
        # modes: make_fx, fake tensors, counting
        (torch._C._len_torch_dispatch_stack() > 0 and not all(getattr(m, "unseen", False) for m in modes()))
        or torch._C._get_tracing_state() is not None  # torch.jit.trace, the older ONNX export
        or torch._C._functorch.peek_interpreter_stack() is not None  # vmap, jvp
        or forward_ad._current_level >= 0
    )


def plain_operators() -> bool:
    """Return whether operators of ours will not do: in an export to ONNX, and for derivatives taken forward."""
    if forward_ad._current_level >= 0:
        return True
    traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    return traced and torch.onnx.is_in_onnx_export()
