"""Storage formats of pruned weights: from_dense, linear, to_dense."""

from smart_kernels.shapes import Conv

from . import processor, simd
from .base import Candidate, Format
from .bsr import BSR
from .compact import Compact
from .csr import CSR
from .cusparselt import CuSparseLt
from .dense import Dense
from .ell import ELL
from .jit import JIT
from .layouts import from_cutlass, from_torch, to_cutlass
from .packed import Packed
from .semi_structured import SemiStructured
from .zeros import GROUP_SIZES, Groups, Zeros

# by name, a line for each: ``compress_``, ``save`` and ``load`` know what stands here, and try it in this order
FORMATS: dict[str, type[Format]] = {
    Dense.name: Dense,
    Packed.name: Packed,
    Compact.name: Compact,
    ELL.name: ELL,
    JIT.name: JIT,
    BSR.name: BSR,
    SemiStructured.name: SemiStructured,
    CuSparseLt.name: CuSparseLt,
    CSR.name: CSR,
}

__all__ = [
    "BSR",
    "CSR",
    "ELL",
    "FORMATS",
    "GROUP_SIZES",
    "JIT",
    "Candidate",
    "Compact",
    "Conv",
    "CuSparseLt",
    "Dense",
    "Format",
    "Groups",
    "Packed",
    "SemiStructured",
    "Zeros",
    "from_cutlass",
    "from_torch",
    "processor",
    "simd",
    "to_cutlass",
]
