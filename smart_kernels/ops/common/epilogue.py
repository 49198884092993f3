"""The end of a product: bias, residual and activation before the sums are stored."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .arguments import strides


@dataclass(frozen=True)
class Epilogue:
    """The end of a product: ``activation(sums + bias + residual)``.

    Attributes:
        bias: (N,) or None.
        residual: of the shape of the result, or None; added before the activation.
        activation: a key of ``reference.common.epilogue.ACTIVATIONS`` or None.
        dtype: of the result; None: that of x.
    """

    bias: Tensor | None = None
    residual: Tensor | None = None
    activation: str | None = None
    dtype: torch.dtype | None = None

    @property
    def tensors(self) -> tuple[Tensor | None, Tensor | None]:
        """The kernel arguments bias and residual."""
        return None if self.bias is None else self.bias.contiguous(), self.residual

    @property
    def strides(self) -> tuple[int, int]:
        """The strides of a residual (M, N)."""
        return strides(self.residual)
