"""The methods of pruning: a file each, and a line in one table."""

from .acdc import ACDCPruner
from .activation import ActivationPruner
from .base import Pruner
from .catro import CATROPruner
from .dais import DAISPruner
from .dhp import DHPPruner
from .dsp import DSPPruner
from .gdp import GDPPruner
from .gradual import GradualPruner
from .lookahead import LookaheadPruner
from .oneshot import OneShotPruner
from .pdp import PDPPruner
from .rl import RLPruner
from .smart import SmartPruner
from .srste import SRSTEPruner
from .straight import StraightThroughPruner
from .taylor import TaylorPruner

PRUNERS: dict[str, type[Pruner]] = {
    "smart": SmartPruner,
    "oneshot": OneShotPruner,
    "taylor": TaylorPruner,
    "gradual": GradualPruner,
    "pdp": PDPPruner,
    "acdc": ACDCPruner,
    "straight": StraightThroughPruner,
    "srste": SRSTEPruner,
    "lookahead": LookaheadPruner,
    "gdp": GDPPruner,
    "dais": DAISPruner,
    "dhp": DHPPruner,
    "dsp": DSPPruner,
    "catro": CATROPruner,
    "activation": ActivationPruner,
    "rl": RLPruner,
}

__all__ = [
    "PRUNERS",
    "ACDCPruner",
    "ActivationPruner",
    "CATROPruner",
    "DAISPruner",
    "DHPPruner",
    "DSPPruner",
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
