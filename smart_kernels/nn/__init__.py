"""Drop-in layers: masked while pruning, sparse afterwards or from the start."""

from smart_kernels.ops.common import capturing

from .attention import SplitAttention, split_
from .attention_parts import Pieces, packed, projections, why_not_split
from .batchnorm import MaskedBatchNorm, MaskedBatchNorm1d, MaskedBatchNorm2d, masked_batchnorm
from .gates import Gate, GroupGate, HardGate, SoftGate
from .keep import random_mask
from .masked import Masked
from .masked_convs import (
    MaskedConv1d,
    MaskedConv3d,
    MaskedConvTranspose1d,
    MaskedConvTranspose2d,
    MaskedConvTranspose3d,
)
from .masked_layers import MaskedConv2d, MaskedLinear
from .prepared import Prepared
from .quantized import QuantizedLinear, is_2_4
from .sharing import own_weights, score_costs, start_scores_
from .sparse import SparseConv2d, SparseLinear, sparse_layer
from .sparse_base import TRANSPOSED, Sparse, geometry, matrix, weight_shape

__all__ = [
    "TRANSPOSED",
    "Gate",
    "GroupGate",
    "HardGate",
    "Masked",
    "MaskedBatchNorm",
    "MaskedBatchNorm1d",
    "MaskedBatchNorm2d",
    "MaskedConv1d",
    "MaskedConv2d",
    "MaskedConv3d",
    "MaskedConvTranspose1d",
    "MaskedConvTranspose2d",
    "MaskedConvTranspose3d",
    "MaskedLinear",
    "Pieces",
    "Prepared",
    "QuantizedLinear",
    "SoftGate",
    "Sparse",
    "SparseConv2d",
    "SparseLinear",
    "SplitAttention",
    "capturing",
    "geometry",
    "is_2_4",
    "masked_batchnorm",
    "matrix",
    "own_weights",
    "packed",
    "projections",
    "random_mask",
    "score_costs",
    "sparse_layer",
    "split_",
    "start_scores_",
    "weight_shape",
    "why_not_split",
]
