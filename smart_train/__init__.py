"""Finds the masks: pruners, and what trains with them."""

from smart_kernels import __version__ as __version__

from .pruners import PRUNERS, GradualPruner, OneShotPruner, Pruner, SmartPruner, TaylorPruner

__all__ = ["PRUNERS", "GradualPruner", "OneShotPruner", "Pruner", "SmartPruner", "TaylorPruner"]
