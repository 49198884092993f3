"""A model as a tree of modules: running it, who follows whom, folding and replacing."""

from .agree import agrees
from .attention import split_attention_
from .before import Outputs
from .fast_path import switch_fast_paths_
from .fold import Folded, fold_batchnorm_, fold_proven_, refold_, unfoldable
from .followers import following_batchnorms
from .graph import call, device_of, evaluating, inputs_of, users_of_weights, watch_calls
from .head import head_of
from .outputs import tensors_in
from .plain import BATCHNORMS, LAYERS, MASKABLE, left_alone, plain_batchnorm, why_no_norm, why_not_plain
from .pruned import bake_torch_masks_
from .shards import check_model, check_whole
from .swap import swap_
from .transaction import Snapshot, lent, whole_or_not_at_all
from .twin import twin

__all__ = [
    "BATCHNORMS",
    "LAYERS",
    "MASKABLE",
    "Folded",
    "Outputs",
    "Snapshot",
    "agrees",
    "bake_torch_masks_",
    "call",
    "check_model",
    "check_whole",
    "device_of",
    "evaluating",
    "fold_batchnorm_",
    "fold_proven_",
    "following_batchnorms",
    "head_of",
    "inputs_of",
    "left_alone",
    "lent",
    "plain_batchnorm",
    "refold_",
    "split_attention_",
    "swap_",
    "switch_fast_paths_",
    "tensors_in",
    "twin",
    "unfoldable",
    "users_of_weights",
    "watch_calls",
    "whole_or_not_at_all",
    "why_no_norm",
    "why_not_plain",
]
