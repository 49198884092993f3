"""Whole models: ``mask_`` to prune, ``unmask_`` to bake the zeros in, ``compress_`` to make them fast."""

from .channels.slim import Slimmed, slim_
from .compress.candidates import BACKENDS, DENSE
from .compress.compress import compress_
from .compress.report import Report
from .compress.warmup import warmup
from .mask import mask_, masked_layers, unmask_
from .measure.compare import Comparison, compare
from .modules.fold import fold_batchnorm_
from .saving.save import load, save

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
