"""Whole models: ``mask_`` to prune, ``unmask_`` to bake the zeros in, ``compress_`` to make them fast."""

from .compress import compress_
from .mask import mask_, masked_layers, unmask_
from .plan import BACKENDS, DENSE
from .report import Report
from .save import load, save
from .slim import Slimmed, slim_

__all__ = [
    "BACKENDS",
    "DENSE",
    "Report",
    "Slimmed",
    "compress_",
    "load",
    "mask_",
    "masked_layers",
    "save",
    "slim_",
    "unmask_",
]
