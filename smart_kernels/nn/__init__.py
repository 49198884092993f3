"""Drop-in layers: masked while pruning, sparse afterwards or from the start."""

from smart_kernels.ops.common import capturing

from .attention import SplitAttention, split_
from .attention_parts import Pieces, packed, projections, why_not_split
from .batchnorm import MaskedBatchNorm, MaskedBatchNorm1d, MaskedBatchNorm2d, masked_batchnorm
from .epilogue import Epilogue
from .following import Following
from .gates import Gate, GroupGate, HardGate, SoftGate
from .joined import Joined, joined
from .keep import random_mask
from .live_norm import LiveNorm, NormKind, live_norm, live_norm_class
from .masked import Masked
from .masked_convs import MASKED_CONVS
from .masked_layers import MaskedConv2d, MaskedLinear
from .prepared import Prepared
from .quantized import QuantizedLinear, is_2_4
from .sharing import own_weights, score_costs, start_scores_
from .sparse import SparseConv2d, SparseLinear, sparse_layer
from .sparse_base import TRANSPOSED, Sparse, geometry, matrix, weight_shape
from .waiting import Waiting, settled

__all__ = [
    "MASKED_CONVS",
    "TRANSPOSED",
    "Epilogue",
    "Following",
    "Gate",
    "GroupGate",
    "HardGate",
    "Joined",
    "LiveNorm",
    "Masked",
    "MaskedBatchNorm",
    "MaskedBatchNorm1d",
    "MaskedBatchNorm2d",
    "MaskedConv2d",
    "MaskedLinear",
    "NormKind",
    "Pieces",
    "Prepared",
    "QuantizedLinear",
    "SoftGate",
    "Sparse",
    "SparseConv2d",
    "SparseLinear",
    "SplitAttention",
    "Waiting",
    "capturing",
    "geometry",
    "is_2_4",
    "joined",
    "live_norm",
    "live_norm_class",
    "masked_batchnorm",
    "matrix",
    "own_weights",
    "packed",
    "projections",
    "random_mask",
    "score_costs",
    "settled",
    "sparse_layer",
    "split_",
    "start_scores_",
    "weight_shape",
    "why_not_split",
]
