"""Lists of live blocks, packing, and the gradients of masked weights."""

from .conv2d import masked_grad_kernel
from .grouped import group_lists_kernel, group_pack_kernel
from .linear import pack_kernel, weight_grad_kernel
from .live_blocks import live_blocks_kernel

__all__ = [
    "group_lists_kernel",
    "group_pack_kernel",
    "live_blocks_kernel",
    "masked_grad_kernel",
    "pack_kernel",
    "weight_grad_kernel",
]
