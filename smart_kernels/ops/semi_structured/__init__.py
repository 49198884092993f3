"""Products with a weight that keeps n of every m weights, on any device, and pruning to 2:4."""

from .conv2d import semi_structured_conv2d
from .linear import semi_structured_linear
from .prune import semi_structured_prune

__all__ = ["semi_structured_conv2d", "semi_structured_linear", "semi_structured_prune"]
