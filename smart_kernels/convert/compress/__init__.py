"""From a pruned model to a fast one: ``compress_``, its settings, its report, and warming the result up."""

from .compress import compress_
from .explain import explaining_groups, explaining_tile
from .report import LayerReport, Report
from .select import PLAIN
from .settings import BACKENDS, DENSE, Settings
from .warmup import warmup

__all__ = [
    "BACKENDS",
    "DENSE",
    "PLAIN",
    "LayerReport",
    "Report",
    "Settings",
    "compress_",
    "explaining_groups",
    "explaining_tile",
    "warmup",
]
