"""Layers while they are pruned: the user's own modules, whose class was swapped in place by ``mask_``."""

import torch.nn.functional as F
from torch import Tensor, nn

from smart_kernels.ops import masked_conv2d
from smart_kernels.ops.common import TRITON_DEVICES, pixels

from .gates import GroupGate
from .masked import Masked
from .sparse_base import geometry

STEP = 16  # what a tensor core multiplies at once


class MaskedLinear(Masked, nn.Linear):
    """``nn.Linear`` whose weight is masked tile by tile; dead tiles are neither loaded nor multiplied."""

    dense_class = nn.Linear

    def matrix(self) -> Tensor:
        """View the raw weight as (N, 1, K)."""
        return self.raw_weight.unsqueeze(1)

    def _from_matrix(self, matrix: Tensor) -> Tensor:
        return matrix.squeeze(1)

    def is_product(self) -> bool:
        """Return whether the layer is a product with a matrix."""
        return True

    def forward(self, input: Tensor) -> Tensor:
        if self._own_gate() is None:
            return F.linear(input, self.raw_weight, self.raw_bias)
        if input.is_nested:
            return F.linear(input, self.weight, self.bias)
        return self._linear(input)


class MaskedConv2d(Masked, nn.Conv2d):
    """``nn.Conv2d`` whose weight is masked tile by tile.

    A 1x1 convolution is a linear layer over pixels and runs as one. Any other skips its dead tiles on a GPU. On a CPU,
    in groups, and with tiles that are no multiple of 16 x 16, it runs dense on the masked weight.
    """

    dense_class = nn.Conv2d

    def matrix(self) -> Tensor:
        """View the raw weight as (N, kh * kw, C); C is ``in_channels / groups``."""
        return self.raw_weight.flatten(2).transpose(1, 2)

    def _from_matrix(self, matrix: Tensor) -> Tensor:
        return matrix.transpose(1, 2).reshape(self.raw_weight.shape)

    def forward(self, input: Tensor) -> Tensor:
        if self._own_gate() is None:
            return self._conv_forward(input, self.raw_weight, self.raw_bias)
        if self.is_product():
            return self._linear(pixels(input, self.stride)).movedim(-1, -3)
        if self._skips(input):
            return self._conv(input)
        return self._conv_forward(input, self.weight, self.bias)

    def is_product(self) -> bool:
        """Return whether the layer is a product with a matrix: pointwise, without groups."""
        return self.kernel_size == (1, 1) and self.groups == 1 and self.padding in ((0, 0), "valid")

    def _skips(self, x: Tensor) -> bool:
        """Return whether skipping dead tiles can pay: a gate with tiles, and a kernel for them."""
        tiled = not isinstance(self._own_gate(), GroupGate) and not any(t % STEP for t in self.pattern.tile(self.shape))
        if not tiled or x.device.type not in TRITON_DEVICES or x.dim() != 4:
            return False
        return self.groups == 1 and self.padding_mode == "zeros" and self._symmetric()

    def _symmetric(self) -> bool:
        """Return False where ``padding="same"`` adds more on one side."""
        return self.padding != "same" or all(
            d * (k - 1) % 2 == 0 for d, k in zip(self.dilation, self.kernel_size, strict=True)
        )

    def _conv(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, N, H', W') by the fused op."""
        gate = self._own_gate()
        pattern = self.pattern
        shape = self.shape
        conv = geometry(self)
        mask = pattern.tile_values(self.per_tile(gate.mask), shape)
        settings = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation, "eps": gate.eps}
        return masked_conv2d(x, self.raw_weight, mask, self.bias, tile=pattern.tile(shape), **settings)
