"""A model as a tree of modules: running it, who follows whom, folding and replacing."""

from .fold import Folded, fold_batchnorm_, refold_
from .graph import BATCHNORMS, call, device_of, evaluating, following_batchnorms, inputs_of, users_of_weights
from .swap import swap_

__all__ = [
    "BATCHNORMS",
    "Folded",
    "call",
    "device_of",
    "evaluating",
    "fold_batchnorm_",
    "following_batchnorms",
    "inputs_of",
    "refold_",
    "swap_",
    "users_of_weights",
]
