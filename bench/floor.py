"""The time that no implementation can beat: arithmetic, memory and, where blocks are low, the L2 cache.

A block row of W that is h high reads all of x that its live blocks touch, for itself alone: 2 h FLOP per element of x,
so low blocks wait for the L2 cache while the tensor cores idle.
"""

from dataclasses import dataclass

import torch

from . import l2, timing
from .case import Problem
from .rows import Row

LARGEST = (256, 128)  # rows and columns of W that one program of the product works on
LARGEST_GRAD = (128, 64)  # and one of the gradient of W


@dataclass(frozen=True)
class Limits(timing.Ceilings):
    """The best that a device reached: FLOP/s, bytes/s of a copy and, on a GPU, bytes/s from L2 (None: not measured)."""

    l2: float | None = None


def measured(device: str, dtype: torch.dtype) -> Limits:
    """Measure the limits of a device."""
    found = timing.ceilings(device, dtype)
    return Limits(found.peak, found.bandwidth, l2.rate() if device == "cuda" else None)


def from_l2(p: Problem, tile: tuple[int, int], density: float) -> float:
    """Return the bytes of x and dy that a pass reads from L2 with these tiles of W, each of its programs for itself."""
    height, width = (min(pair) for pair in zip(tile, LARGEST, strict=True))
    tall, wide = (min(pair) for pair in zip(tile, LARGEST_GRAD, strict=True))
    elements = {"fwd": 1 / height, "bwd": 1 / width + 1 / tall + 1 / wide}  # per multiplication
    elements["step"] = elements["fwd"] + elements["bwd"]
    return p.dtype.itemsize * elements[p.pass_] * p.shape.M * p.shape.N * p.shape.K * density


def terms(flops: float, bytes: float, l2_bytes: float, limits: Limits) -> dict[str, float]:
    """Return the milliseconds that each limit alone asks for; there is no term of L2 where nobody measured it."""
    arithmetic = timing.floor_ms(flops, 0.0, limits)
    found = {"FLOPs": arithmetic, "memory": timing.floor_ms(0.0, bytes, limits)}
    return found | ({"L2": 1e3 * l2_bytes / limits.l2} if limits.l2 else {})


def binds(r: Row) -> str:
    """Return the name of the term that is the floor of a row; "-" where nothing is known of what it needs."""
    limits = Limits(1e12 * r.peak_tflops, 1e9 * r.bandwidth_gbps, r.l2_gbps and 1e9 * r.l2_gbps)
    found = terms(r.flops, r.bytes, r.l2_bytes, limits)
    return max(found, key=found.__getitem__) if any(found.values()) else "-"
