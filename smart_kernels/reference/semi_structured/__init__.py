"""Definitions of ``semi_structured_linear``, ``semi_structured_conv2d`` and ``semi_structured_prune``."""

from .conv2d import kernel, semi_structured_conv2d
from .linear import semi_structured_linear
from .prune import (
    PINNED,
    best_masks,
    semi_structured_prune,
    semi_structured_prune_both_ways,
    transposable_masks,
)

__all__ = [
    "PINNED",
    "best_masks",
    "kernel",
    "semi_structured_conv2d",
    "semi_structured_linear",
    "semi_structured_prune",
    "semi_structured_prune_both_ways",
    "transposable_masks",
]
