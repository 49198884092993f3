"""The masks of a model and the budgets they have to hold, whatever method chooses them."""

from .carried import Masks
from .counts import counts
from .masked_model import MaskedModel, check_not_nan
from .pool import Pool
from .pools import Budget

__all__ = ["Budget", "MaskedModel", "Masks", "Pool", "check_not_nan", "counts"]
