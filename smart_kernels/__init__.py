"""Sparse layers on Triton kernels: prune with a soft top-k mask, run the result, never slower than dense."""

from .convert import (
    BACKENDS,
    DENSE,
    Report,
    compress_,
    fold_batchnorm_,
    load,
    mask_,
    masked_layers,
    save,
    unmask_,
    warmup,
)
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
    "SoftGate",
    "SparseConv2d",
    "SparseLinear",
    "SplitAttention",
    "WeightShape",
    "block_sparse_linear",
    "compress_",
    "fold_batchnorm_",
    "load",
    "mask_",
    "masked_layers",
    "masked_linear",
    "parse",
    "save",
    "smart_linear",
    "soft_topk",
    "unmask_",
    "warmup",
]
