"""From a pruned model to a fast one: ``compress_``, its settings, its report, and warming the result up."""

from .alike import problem_of
from .candidates import dense_of, timed, tried
from .compress import compress_
from .explain import explaining_groups, explaining_tile, zeros_of
from .fusing import fuse_
from .report import LayerReport, Report
from .settings import BACKENDS, DENSE, Settings
from .usable import PLAIN
from .warmup import warmup

__all__ = [
    "BACKENDS",
    "DENSE",
    "PLAIN",
    "LayerReport",
    "Report",
    "Settings",
    "compress_",
    "dense_of",
    "explaining_groups",
    "explaining_tile",
    "fuse_",
    "problem_of",
    "timed",
    "tried",
    "warmup",
    "zeros_of",
]
