"""Finds the masks: pruners, and what trains with them."""

from smart_kernels import __version__ as __version__

from .pruners import (
    PRUNERS,
    ACDCPruner,
    ActivationPruner,
    CATROPruner,
    DAISPruner,
    DHPPruner,
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
    "DAISPruner",
    "DHPPruner",
    "GDPPruner",
    "GradualPruner",
    "LookaheadPruner",
    "OneShotPruner",
    "PDPPruner",
    "Pruner",
    "RLPruner",
    "SRSTEPruner",
    "SmartPruner",
    "StraightThroughPruner",
    "TaylorPruner",
]
