"""Sparse layers on Triton kernels: prune with a soft top-k mask, run the result, never slower than dense."""

from .convert import mask_, masked_layers, unmask_
from .nn import HardGate, Masked, MaskedConv2d, MaskedLinear, SoftGate, SplitAttention
from .ops import block_sparse_linear, masked_linear, smart_linear, soft_topk
from .patterns import NM, Block, Channel, Pattern, WeightShape, parse

__all__ = [
    "NM",
    "Block",
    "Channel",
    "HardGate",
    "Masked",
    "MaskedConv2d",
    "MaskedLinear",
    "Pattern",
    "SoftGate",
    "SplitAttention",
    "WeightShape",
    "block_sparse_linear",
    "mask_",
    "masked_layers",
    "masked_linear",
    "parse",
    "smart_linear",
    "soft_topk",
    "unmask_",
]
