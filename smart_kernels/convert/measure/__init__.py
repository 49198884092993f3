"""How long models and layers take, what they cost, and which is the faster."""

from smart_kernels.convert.modules import agrees

from . import timing
from .choice import CLOSE, Choice, Times, choose, pair_ratio, settle
from .compare import Comparison, compare, time_models
from .cost import Cost, cost
from .timing import device_name

__all__ = [
    "CLOSE",
    "Choice",
    "Comparison",
    "Cost",
    "Times",
    "agrees",
    "choose",
    "compare",
    "cost",
    "device_name",
    "pair_ratio",
    "settle",
    "time_models",
    "timing",
]
