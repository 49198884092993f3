"""The soft top-k of small and of large groups, and a weight times its soft n:m mask."""

from .large import (
    soft_topk_bwd_kernel,
    soft_topk_finish_kernel,
    soft_topk_mask_kernel,
    soft_topk_pass_kernel,
    soft_topk_range_kernel,
)
from .small import soft_topk_small_bwd_kernel, soft_topk_small_fwd_kernel
from .smart_weight import smart_weight_bwd_kernel, smart_weight_kernel

__all__ = [
    "smart_weight_bwd_kernel",
    "smart_weight_kernel",
    "soft_topk_bwd_kernel",
    "soft_topk_finish_kernel",
    "soft_topk_mask_kernel",
    "soft_topk_pass_kernel",
    "soft_topk_range_kernel",
    "soft_topk_small_bwd_kernel",
    "soft_topk_small_fwd_kernel",
]
