"""Whole models: ``mask_`` to prune, ``unmask_`` to bake the zeros in, ``compress_`` to make them fast."""

from .candidates import BACKENDS, DENSE
from .compress import compress_
from .fold import fold_batchnorm_
from .mask import mask_, masked_layers, unmask_
from .report import Report
from .save import load, save
from .warmup import warmup

__all__ = [
    "BACKENDS",
    "DENSE",
    "Report",
    "compress_",
    "fold_batchnorm_",
    "load",
    "mask_",
    "masked_layers",
    "save",
    "unmask_",
    "warmup",
]
