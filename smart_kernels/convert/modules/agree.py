"""Whether an output is the same as another but for rounding."""

import torch
from torch import Tensor

# relative difference: rounding of other orders of summation, not errors
LIMITS = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def agrees(got: Tensor, exact: Tensor) -> bool:
    """Return whether ||got - exact|| <= limit * ||exact||; integers must be equal, NaN and infinities never agree."""
    error = (got.double() - exact.double()).norm()
    size = exact.double().norm()
    return bool(error.isfinite() and error <= LIMITS.get(exact.dtype, 0.0) * size)
