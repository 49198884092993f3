"""The masks of a model and the budgets they have to hold, whatever method chooses them."""

from .counts import counts
from .masked_model import MaskedModel, Masks, check_not_nan
from .planned import PlannedPool
from .pool import Pool
from .pools import Budget

__all__ = ["Budget", "MaskedModel", "Masks", "PlannedPool", "Pool", "check_not_nan", "counts"]
