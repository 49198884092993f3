"""From a target, such as twice as fast, to a pattern and a density for each layer."""

from .correct import Correction, correct_
from .plan import choose_plan, plan
from .targets import Latency, Macs, Size, Sparsity, Speedup, Target
from .text import parse_target

__all__ = [
    "Correction",
    "Latency",
    "Macs",
    "Size",
    "Sparsity",
    "Speedup",
    "Target",
    "choose_plan",
    "correct_",
    "parse_target",
    "plan",
]
