"""Storage formats of pruned weights: from_dense, linear, to_dense."""

from . import simd
from .base import Conv, Format
from .bsr import BSR
from .compact import Compact
from .cusparselt import CuSparseLt
from .dense import Dense
from .ell import ELL
from .jit import JIT
from .layouts import from_cutlass, from_torch, to_cutlass
from .packed import Packed
from .semi_structured import SemiStructured
from .zeros import GROUP_SIZES, Groups

FORMATS: dict[str, type[Format]] = {
    cls.name: cls for cls in (Dense, Packed, Compact, BSR, ELL, JIT, SemiStructured, CuSparseLt)
}

__all__ = [
    "BSR",
    "ELL",
    "FORMATS",
    "GROUP_SIZES",
    "JIT",
    "Compact",
    "Conv",
    "CuSparseLt",
    "Dense",
    "Format",
    "Groups",
    "Packed",
    "SemiStructured",
    "from_cutlass",
    "from_torch",
    "simd",
    "to_cutlass",
]
