"""The methods of pruning: a file each, and a line in one table."""

from .base import Pruner
from .gradual import GradualPruner
from .oneshot import OneShotPruner
from .smart import SmartPruner
from .taylor import TaylorPruner

PRUNERS: dict[str, type[Pruner]] = {
    "smart": SmartPruner,
    "oneshot": OneShotPruner,
    "taylor": TaylorPruner,
    "gradual": GradualPruner,
}

__all__ = ["PRUNERS", "GradualPruner", "OneShotPruner", "Pruner", "SmartPruner", "TaylorPruner"]
