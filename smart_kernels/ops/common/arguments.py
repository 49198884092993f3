"""Arguments that many launches compute alike."""

import torch
from torch import Tensor

from .launch import NOTHING, Nothing


def m_class(M: int) -> int:
    """Round M up to 16, 64, 256, 1024 or 4096: configurations are tuned once per class."""
    return next((c for c in (16, 64, 256, 1024) if c >= M), 4096)


def precision() -> str:
    """Return how ``tl.dot`` multiplies fp32, "ieee" or "tf32": torch's own switch decides."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def strides(matrix: Tensor | Nothing | None) -> tuple[int, int]:
    """Return the strides of a matrix, zeros where there is none."""
    return (0, 0) if matrix is None or matrix is NOTHING else (matrix.stride(0), matrix.stride(1))
