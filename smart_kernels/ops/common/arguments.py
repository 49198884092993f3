"""Arguments that many launches compute alike."""

import functools

import torch
import triton
from torch import Tensor
from triton.runtime import driver

from .launch import NOTHING, STATE, Nothing


def m_class(M: int) -> int:
    """Round M up to 16, 64, 256, 1024 or 4096: configurations are tuned once per class."""
    return next((c for c in (16, 64, 256, 1024) if c >= M), 4096)


def precision() -> str:
    """Return how ``tl.dot`` multiplies fp32, "ieee" or "tf32": torch's own switch decides."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def strides(matrix: Tensor | Nothing | None) -> tuple[int, int]:
    """Return the strides of a matrix, zeros where there is none."""
    return (0, 0) if matrix is None or matrix is NOTHING else (matrix.stride(0), matrix.stride(1))


@functools.cache
def processors(device: torch.device) -> int:
    """Return the number of multiprocessors of a GPU; 1 where kernels are only compiled."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def overlapped() -> dict[str, bool]:
    """Return the arguments of a launch that is set up while the one before it ends, where the device can.

    Not in a graph of ``torch.compile``, which launches by itself.
    """
    if STATE.tracing or not since_hopper():
        return {"OVERLAPPED": False}
    return {"OVERLAPPED": True, "launch_pdl": True}


def since_hopper() -> bool:
    """Return whether the current device is an NVIDIA GPU of sm_90 or later; the interpreter is none."""
    if triton.knobs.runtime.interpret:
        return False
    target = driver.active.get_current_target()
    return target.backend == "cuda" and target.arch >= 90
