"""Whole models: ``mask_`` to prune, ``unmask_`` to bake the zeros in, ``compress_`` to make them fast."""

from .candidates import BACKENDS, DENSE
from .compare import Comparison, compare
from .compress import compress_
from .fold import fold_batchnorm_
from .mask import mask_, masked_layers, unmask_
from .report import Report
from .save import load, save
from .slim import Slimmed, slim_
from .warmup import warmup

__all__ = [
    "BACKENDS",
    "DENSE",
    "Comparison",
    "Report",
    "Slimmed",
    "compare",
    "compress_",
    "fold_batchnorm_",
    "load",
    "mask_",
    "masked_layers",
    "save",
    "slim_",
    "unmask_",
    "warmup",
]
