"""Whole models: ``mask_`` to prune, ``unmask_`` to bake the zeros in, ``compress_`` to make them fast.

    modules/    a model as a tree of modules; knows nothing of sparsity
    measure/    how long models and layers take, and who wins
    channels/   which channels belong together; slim_
    maskable.py which layers mask_ masks, and which it cannot
    mask.py     mask_, unmask_
    compress/   compress_: every layer becomes what runs it fastest
    keep_zeros.py  mask_from_zeros_
    saving/     save, load
    latency/    latency_table: how long layers would take in each pattern and density

Each uses those above it.
"""

from .channels import Slimmed, slim_
from .compress import BACKENDS, DENSE, Report, compress_, warmup
from .keep_zeros import mask_from_zeros_
from .latency import Curve, LatencyTable, LayerTimes, latency_table
from .mask import mask_, masked_layers, unmask_
from .measure import Comparison, compare
from .modules import check_model, fold_batchnorm_, lent, whole_or_not_at_all
from .saving import load, save

__all__ = [
    "BACKENDS",
    "DENSE",
    "Comparison",
    "Curve",
    "LatencyTable",
    "LayerTimes",
    "Report",
    "Slimmed",
    "check_model",
    "compare",
    "compress_",
    "fold_batchnorm_",
    "latency_table",
    "lent",
    "load",
    "mask_",
    "mask_from_zeros_",
    "masked_layers",
    "save",
    "slim_",
    "unmask_",
    "warmup",
    "whole_or_not_at_all",
]
