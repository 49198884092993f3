"""A model as a tree of modules: running it, who follows whom, folding and replacing."""

from .attention import split_attention_
from .fast_path import switch_fast_paths_
from .fold import Folded, fold_batchnorm_, refold_
from .graph import BATCHNORMS, call, device_of, evaluating, following_batchnorms, inputs_of, users_of_weights
from .outputs import tensors_in
from .swap import swap_
from .transaction import remember, whole_or_not_at_all

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
    "remember",
    "split_attention_",
    "swap_",
    "switch_fast_paths_",
    "tensors_in",
    "users_of_weights",
    "whole_or_not_at_all",
]
