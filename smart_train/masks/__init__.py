"""The masks of a model and the budgets they have to hold, whatever method chooses them."""

from .counts import counts
from .masked_model import MaskedModel, Masks, check_not_nan
from .pool import Pool
from .pools import Budget
from .sharing import standardised

__all__ = ["Budget", "MaskedModel", "Masks", "Pool", "check_not_nan", "counts", "standardised"]
