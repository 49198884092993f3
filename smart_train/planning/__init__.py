"""From a target, such as twice as fast, to a pattern and a density for each layer."""

from .plan import choose_plan, plan
from .targets import Latency, Macs, Size, Sparsity, Speedup, Target

__all__ = ["Latency", "Macs", "Size", "Sparsity", "Speedup", "Target", "choose_plan", "plan"]
