"""Sparse layers on Triton kernels: prune with a soft top-k mask, run the result, never slower than dense."""

from .convert import BACKENDS, DENSE, Report, compress_, load, mask_, masked_layers, save, unmask_
from .nn import (
    GroupGate,
    HardGate,
    Masked,
    MaskedConv2d,
    MaskedLinear,
    SoftGate,
    SparseConv2d,
    SparseLinear,
    SplitAttention,
)
from .ops import (
    block_sparse_linear,
    masked_linear,
    semi_structured_linear,
    smart_linear,
    smart_weight,
    soft_topk,
)
from .patterns import NM, VNM, Block, Channel, Pattern, WeightShape, parse

__all__ = [
    "BACKENDS",
    "DENSE",
    "NM",
    "VNM",
    "Block",
    "Channel",
    "GroupGate",
    "HardGate",
    "Masked",
    "MaskedConv2d",
    "MaskedLinear",
    "Pattern",
    "Report",
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
    "semi_structured_linear",
    "smart_linear",
    "smart_weight",
    "soft_topk",
    "unmask_",
]
