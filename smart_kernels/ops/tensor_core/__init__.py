"""Products with 2:4 weights on sparse tensor cores: packing, launching, training, and whether it is right here."""

from .device import lacks, supported, words_kernel
from .gather import kept, turned, turned_metadata
from .launch import matmul
from .packed_linear import linear
from .packing import (
    KERNELS,
    TYPES,
    PackedWeight,
    arrange,
    arrange_indices,
    pack,
    restore,
    restore_indices,
    unpack,
)
from .quantized_linear import quantized_semi_structured_linear, quantized_semi_structured_pack
from .tuning import forced, offered, tuner
from .verify import exact, integers, scales, verified

__all__ = [
    "KERNELS",
    "TYPES",
    "PackedWeight",
    "arrange",
    "arrange_indices",
    "exact",
    "forced",
    "integers",
    "kept",
    "lacks",
    "linear",
    "matmul",
    "offered",
    "pack",
    "quantized_semi_structured_linear",
    "quantized_semi_structured_pack",
    "restore",
    "restore_indices",
    "scales",
    "supported",
    "tuner",
    "turned",
    "turned_metadata",
    "unpack",
    "verified",
    "words_kernel",
]
