"""Storage formats of pruned weights: from_dense, linear, to_dense."""

from . import simd
from .base import Conv, Format
from .bsr import BSR
from .compact import Compact
from .dense import Dense
from .ell import ELL
from .jit import JIT
from .packed import Packed

FORMATS: dict[str, type[Format]] = {cls.name: cls for cls in (Dense, Packed, Compact, BSR, ELL, JIT)}

__all__ = ["BSR", "ELL", "FORMATS", "JIT", "Compact", "Conv", "Dense", "Format", "Packed", "simd"]
