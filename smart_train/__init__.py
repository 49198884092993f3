"""Finds the masks: what to prune for a target, pruners, and what trains with them."""

from .planning import Correction, Latency, Macs, Size, Sparsity, Speedup, Target, correct_, plan
from .plans import LayerPlan, Plan
from .pruners import PRUNERS, GradualPruner, OneShotPruner, Pruner, SmartPruner, TaylorPruner

__all__ = [
    "PRUNERS",
    "Correction",
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
    "correct_",
    "plan",
]
