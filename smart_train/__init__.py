"""Finds the masks: what to prune for a target, pruners, and what trains with them."""

from .planning import Latency, Macs, Size, Sparsity, Speedup, Target, plan
from .plans import LayerPlan, Plan
from .pruners import PRUNERS, GradualPruner, OneShotPruner, Pruner, SmartPruner, TaylorPruner

__all__ = [
    "PRUNERS",
    "GradualPruner",
    "Latency",
    "LayerPlan",
    "Macs",
    "OneShotPruner",
    "Plan",
    "Pruner",
    "Size",
    "SmartPruner",
    "Sparsity",
    "Speedup",
    "Target",
    "TaylorPruner",
    "plan",
]
