"""Sparse layers on Triton kernels: prune with a soft top-k mask, run the result, never slower than dense."""

from .convert import BACKENDS, DENSE, Report, Slimmed, compress_, load, mask_, masked_layers, save, slim_, unmask_
from .nn import HardGate, Masked, MaskedConv2d, MaskedLinear, SoftGate, SparseConv2d, SparseLinear, SplitAttention
from .ops import block_sparse_linear, masked_linear, smart_linear, soft_topk
from .patterns import NM, Block, Channel, Pattern, WeightShape, parse

__all__ = [
    "BACKENDS",
    "DENSE",
    "NM",
    "Block",
    "Channel",
    "HardGate",
    "Masked",
    "MaskedConv2d",
    "MaskedLinear",
    "Pattern",
    "Report",
    "Slimmed",
    "SoftGate",
    "SparseConv2d",
    "SparseLinear",
    "SplitAttention",
    "WeightShape",
    "block_sparse_linear",
    "compress_",
    "load",
    "mask_",
    "masked_layers",
    "masked_linear",
    "parse",
    "save",
    "slim_",
    "smart_linear",
    "soft_topk",
    "unmask_",
]
