"""Products with n:m weights that have kernels of their own, and pruning to 2:4."""

from .conv2d import semi_structured_conv_kernel
from .prune import prune_both_ways_kernel, prune_kernel

__all__ = [
    "prune_both_ways_kernel",
    "prune_kernel",
    "semi_structured_conv_kernel",
]
