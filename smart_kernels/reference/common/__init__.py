"""Definitions that families share: epilogue, soft mask, the saved form of n:m weights."""

from .epilogue import ACTIVATIONS, check_activation, finish
from .nm import compress, expand, transpose
from .soft_mask import soft_mask

__all__ = [
    "ACTIVATIONS",
    "check_activation",
    "compress",
    "expand",
    "finish",
    "soft_mask",
    "transpose",
]
