"""Drop-in layers: masked while pruning, sparse afterwards or from the start."""

from .attention import SplitAttention
from .batchnorm import MaskedBatchNorm1d, MaskedBatchNorm2d
from .gates import GroupGate, HardGate, SoftGate
from .masked import Masked
from .masked_layers import MaskedConv2d, MaskedLinear
from .sharing import own_weights, score_costs, start_scores_
from .sparse import SparseConv2d, SparseLinear

__all__ = [
    "GroupGate",
    "HardGate",
    "Masked",
    "MaskedBatchNorm1d",
    "MaskedBatchNorm2d",
    "MaskedConv2d",
    "MaskedLinear",
    "SoftGate",
    "SparseConv2d",
    "SparseLinear",
    "SplitAttention",
    "own_weights",
    "score_costs",
    "start_scores_",
]
