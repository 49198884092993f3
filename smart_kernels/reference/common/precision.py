"""The precision in which references sum."""

import torch
from torch import Tensor


def wide(t: Tensor) -> Tensor:
    """Return ``t`` in float32, or in float64 if it is."""
    return t.to(torch.promote_types(t.dtype, torch.float32))
