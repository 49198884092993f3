"""Weights of convolutions as matrices, and the way back."""

import torch.nn.functional as F
from torch import Tensor

from smart_kernels.shapes import Conv


def kernel(matrix: Tensor, conv: Conv) -> Tensor:
    """View (N, taps * C) as (N, C, kh, kw)."""
    return matrix.unflatten(1, (*conv.kernel, -1)).permute(0, 3, 1, 2)


def filled(tensor: Tensor, size: int) -> Tensor:
    """Put zeros behind the last dimension up to ``size``; F.pad would copy even where there are none to add."""
    return tensor if tensor.shape[-1] == size else F.pad(tensor, (0, size - tensor.shape[-1]))
