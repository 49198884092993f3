"""The masks of a model and the budgets they have to hold, whatever method chooses them."""

from .carried import Masks
from .counts import counts
from .inputs import Graphed
from .masked_model import MaskedModel, check_not_nan
from .planned import PlannedPool
from .pool import Pool
from .pools import Budget
from .shards import is_shard
from .shares import erk, spread_, uniform
from .sharing import standardised
from .tiles import fold_, per_weight, tile_means

__all__ = [
    "Budget",
    "Graphed",
    "MaskedModel",
    "Masks",
    "PlannedPool",
    "Pool",
    "check_not_nan",
    "counts",
    "erk",
    "fold_",
    "is_shard",
    "per_weight",
    "spread_",
    "standardised",
    "tile_means",
    "uniform",
]
