"""What a report says about what could not be tried."""

from collections.abc import Iterable

import torch
from torch import nn

from smart_kernels.formats import simd
from smart_kernels.nn.sparse_base import weight_shape
from smart_kernels.ops.tensor_core import verify as tensor_core
from smart_kernels.patterns import Pattern


def absent(
    backends: tuple[str, ...], device: torch.device, kernels: Iterable[tuple[str, torch.dtype]] = ()
) -> tuple[str, ...]:
    """A line for each reason why something could not be tried on this device.

    Args:
        backends: out of ``BACKENDS``, those that would run if more were installed are named.
        kernels: for sparse tensor cores and dtypes; why they must not be used, see ``verified``.
    """
    lines = [tensor_core.verified(device, kernel, dtype) for kernel, dtype in sorted(kernels, key=str)]
    if "jit" in backends and device.type == "cpu":
        try:
            simd.machine()
        except ValueError as error:
            lines.append(str(error))
    return tuple(dict.fromkeys(filter(None, lines)))


def left_dense(layer: nn.Linear | nn.Conv2d, pattern: Pattern | None) -> str:
    """A line for the report where nothing here leaves out the zeros of a layer; else empty."""
    if pattern is not None and (note := pattern.storage(weight_shape(layer)).note):
        return f"{pattern}: {note}"
    if getattr(layer, "groups", 1) == 1 or (layer.weight != 0).all():
        return ""
    kind = "depthwise" if layer.groups == layer.in_channels else "grouped"
    return f"{kind} convolution: stays dense"
