"""Drop-in layers: masked while pruning, sparse afterwards."""

from .attention import SplitAttention
from .batchnorm import MaskedBatchNorm1d, MaskedBatchNorm2d
from .gates import HardGate, SoftGate
from .masked import Masked, MaskedConv2d, MaskedLinear

__all__ = [
    "HardGate",
    "Masked",
    "MaskedBatchNorm1d",
    "MaskedBatchNorm2d",
    "MaskedConv2d",
    "MaskedLinear",
    "SoftGate",
    "SplitAttention",
]
