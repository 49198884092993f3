"""Finds the masks: pruners, and what trains with them."""

from .pruners import PRUNERS, GradualPruner, OneShotPruner, Pruner, SmartPruner, TaylorPruner

__all__ = ["PRUNERS", "GradualPruner", "OneShotPruner", "Pruner", "SmartPruner", "TaylorPruner"]
