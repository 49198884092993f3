"""Weights in the blocked layout of oneDNN, which spares every product its reordering (CPU).

``F.linear`` in float32 goes to MKL instead, measured 2.2 times slower on an AMD CPU.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.shapes import Conv

from .base import Candidate
from .dense import Dense
from .processor import check_onednn, onednn_lacks, onednn_takes
from .views import kernel

POINT = Conv((1, 1))
ROWS = 256  # what a weight is packed for; measured within 2 % of the best packing for all M from 16 to 512


def pack_linear(weight: Tensor) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Pack (N, K): return a function of x (..., K) and bias."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
    return lambda x, bias: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def pack_conv(weight: Tensor, conv: Conv, groups: int = 1) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Pack (N, C / groups, kh, kw): return a function of x (B, C, H, W) in channels_last and bias."""
    settings = (conv.padding, conv.stride, conv.dilation, groups)
    size = [1, weight.shape[1] * groups, 16 + conv.kernel[0], 16 + conv.kernel[1]]
    weight = weight.contiguous(memory_format=torch.channels_last)
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *settings, size)
    return lambda x, bias: torch.ops.mkldnn._convolution_pointwise(x, packed, bias, *settings, "none", [], "")


class Packed(Dense):
    """Zeros stored and multiplied, from a packed copy: the best dense product of a CPU."""

    name = "packed"
    saves = ()  # saved as Dense

    @classmethod
    def from_dense(cls, weight, tile, *, taps=1, keep=None):
        check_onednn(weight, "packed")
        return super().from_dense(weight, tile, taps=taps, keep=keep)

    @classmethod
    def candidates(cls, zeros):
        yield Candidate(cls.name, {})

    @classmethod
    def lacking(cls, device, dtype, **options):
        return onednn_lacks(device, dtype)

    def linear(self, x, bias=None):
        if not self.fast(x, bias):
            return super().linear(x, bias)
        return self.prepared(self._pack, None)(x, bias)

    def conv2d(self, x, bias, conv):
        if x.dim() != 4 or not self.fast(x, bias, dim=1):
            return F.conv2d(x, kernel(self.to_dense(), conv), bias, *conv[1:])
        return self.prepared(self._pack, conv)(x.contiguous(memory_format=torch.channels_last), bias)

    def runs(self, values):
        return onednn_takes(values)

    def _pack(self, conv: Conv | None) -> Callable[[Tensor, Tensor | None], Tensor]:
        weight = self.to_dense().detach()
        return pack_linear(weight) if conv is None else pack_conv(kernel(weight, conv), conv)
