import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Format


class Dense(Format):
    """Zeros stored. ``mask`` holds them at 0 in training, where a pattern has no format of its own (N:M)."""

    name = "dense"
    dense = True
    saves = ("values",)

    def __init__(self, weight: Tensor, taps: int = 1, mask: Tensor | None = None):
        super().__init__(weight.shape, taps)
        self.values = nn.Parameter(weight)
        self.register_buffer("mask", mask)

    @classmethod
    def from_dense(cls, weight, tile, *, taps=1, keep=None):
        return cls(weight.detach().clone(), taps, keep)

    @classmethod
    def from_saved(cls, tensors, shape, taps):
        (values,) = tensors
        return cls(values.view(shape), taps)

    @classmethod
    def candidates(cls, zeros):
        return iter(())  # the plain layer is this candidate

    def to_dense(self):
        return self.values if self.mask is None else torch.where(self.mask, self.values, 0)

    def linear(self, x, bias=None):
        return F.linear(x, self.to_dense(), bias)
