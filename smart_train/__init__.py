"""Finds the masks: what to prune for a target, pruners, and what trains with them."""

from smart_kernels import __version__ as __version__

from .planning import Correction, Latency, Macs, Size, Sparsity, Speedup, Target, correct_, plan
from .plans import LayerPlan, Plan
from .pruners import (
    PRUNERS,
    ACDCPruner,
    ActivationPruner,
    CATROPruner,
    DAISPruner,
    DHPPruner,
    DSPPruner,
    GDPPruner,
    GradualPruner,
    LookaheadPruner,
    OneShotPruner,
    PDPPruner,
    Pruner,
    RLPruner,
    SmartPruner,
    SRSTEPruner,
    StraightThroughPruner,
    TaylorPruner,
)

__all__ = [
    "PRUNERS",
    "ACDCPruner",
    "ActivationPruner",
    "CATROPruner",
    "Correction",
    "DAISPruner",
    "DHPPruner",
    "DSPPruner",
    "GDPPruner",
    "GradualPruner",
    "Latency",
    "LayerPlan",
    "LookaheadPruner",
    "Macs",
    "OneShotPruner",
    "PDPPruner",
    "Plan",
    "Pruner",
    "RLPruner",
    "SRSTEPruner",
    "Size",
    "SmartPruner",
    "Sparsity",
    "Speedup",
    "StraightThroughPruner",
    "Target",
    "TaylorPruner",
    "correct_",
    "plan",
]
