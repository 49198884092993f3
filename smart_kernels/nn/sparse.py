"""Layers after pruning, or sparse from the start: only what is kept is stored, and it trains."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_kernels.formats import Format
from smart_kernels.formats.views import kernel
from smart_kernels.patterns import Pattern, WeightShape

from .joined import Joined
from .keep import magnitude_mask, random_weight
from .sparse_base import Sparse, empty_layer, geometry, matrix, plain_layer
from .waiting import Waiting


class SparseLinear(Sparse):
    """``nn.Linear`` whose weight is kept at ``density`` in the given pattern, at places drawn at random.

    Args:
        in_features: K.
        out_features: N.
        pattern: ``Block`` (block compressed rows), ``Channel`` (a smaller dense weight) or ``NM`` (values and their
            places in the groups; dense with a mask for groups of other than 2, 4 or 8).
        density: fraction of the weights to keep; at least one tile is kept.
        bias: whether to add one.

    Raises:
        ValueError: ``density`` outside (0, 1], or another than ``NM`` implies.

    Attributes:
        joined: the layers, this one among them, that read the same tensor and are computed by one launch; or None.
    """

    joined: Joined | None = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        pattern: Pattern,
        density: float,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        shape = WeightShape(out_features, 1, in_features)
        self._prune(*random_weight(shape, pattern, density, bias, device, dtype))

    @classmethod
    def from_dense(cls, linear: nn.Linear, pattern: Pattern, sparsity: float) -> "SparseLinear":
        """Keep the tiles of largest mean magnitude: the most that fit into ``(1 - sparsity) * N * K`` weights.

        Raises:
            ValueError: not even one tile fits, or ``NM`` implies another sparsity.
        """
        self = empty_layer(cls, in_features=linear.in_features, out_features=linear.out_features)
        weight = linear.weight.detach().unsqueeze(1)
        self._prune(weight, linear.bias, pattern, magnitude_mask(weight, pattern, sparsity))
        return self.train(linear.training)

    @classmethod
    def from_format(cls, format: Format, bias: Tensor | None) -> "SparseLinear":
        """Return the layer that stores its weight in ``format``."""
        self = empty_layer(cls, in_features=format.shape[1], out_features=format.shape[0])
        self._store(format, bias)
        return self

    def dense_weight(self) -> Tensor:
        """Return (N, K)."""
        return self.format.to_dense()

    def to_dense(self) -> nn.Linear:
        """Return the plain layer."""
        return plain_layer(nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta"), self)

    def forward(self, input: Tensor) -> Tensor:
        if input.is_nested:
            return F.linear(input, self.dense_weight(), self.live_bias())
        if input.shape[-1:] != (self.in_features,):  # blocks reach beyond the edge, a few columns more would fit
            raise ValueError(f"x must be (..., {self.in_features}), got {tuple(input.shape)}")
        if self.joined is not None and (y := self.joined.output(self, input)) is not None:
            return y
        if self.epilogue is not None and self.waits(input):
            return Waiting.of(self, input, (*input.shape[:-1], self.out_features))
        return self.format.linear(input, self.live_bias())

    def finished(self, x: Tensor, activation: str | None, residual: Tensor | None) -> Tensor:
        """Return ``activation(forward(x) + residual)``."""
        return self.format.finished(x, self.live_bias(), activation, residual)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class SparseConv2d(Sparse):
    """``nn.Conv2d`` whose weight is kept at ``density`` in the given pattern, at places drawn at random.

    Arguments as in ``nn.Conv2d`` (``groups`` must be 1, ``padding_mode`` zeros), and as in ``SparseLinear``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        pattern: Pattern,
        density: float,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        settings = (stride, padding, dilation, groups, bias, padding_mode)
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, *settings, device="meta")
        self._shaped(conv)
        shape = WeightShape(out_channels, conv.kernel_size[0] * conv.kernel_size[1], in_channels)
        self._prune(*random_weight(shape, pattern, density, bias, device, dtype))

    @classmethod
    def from_dense(cls, conv: nn.Conv2d, pattern: Pattern, sparsity: float) -> "SparseConv2d":
        """See ``SparseLinear.from_dense``."""
        self = empty_layer(cls)
        self._shaped(conv)
        weight = matrix(conv).unflatten(1, (-1, conv.in_channels))
        self._prune(weight, conv.bias, pattern, magnitude_mask(weight, pattern, sparsity))
        return self.train(conv.training)

    @classmethod
    def from_format(cls, format: Format, bias: Tensor | None, like: nn.Conv2d) -> "SparseConv2d":
        """Return the layer with the geometry of ``like`` that stores its weight in ``format``."""
        self = empty_layer(cls)
        self._shaped(like)
        self._store(format, bias)
        return self

    def _store(self, format, bias, live=None):
        super()._store(format, bias, live)
        format.expect(self.conv)

    def _shaped(self, conv: nn.Conv2d) -> None:
        self.in_channels = conv.in_channels
        self.out_channels = conv.out_channels
        self.conv = geometry(conv)

    def dense_weight(self) -> Tensor:
        """Return (N, C, kh, kw)."""
        return kernel(self.format.to_dense(), self.conv)

    def to_dense(self) -> nn.Conv2d:
        """Return the plain layer."""
        sizes = (self.in_channels, self.out_channels, *self.conv)
        return plain_layer(nn.Conv2d(*sizes, bias=self.bias is not None, device="meta"), self)

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (3, 4) or input.shape[-3] != self.in_channels:
            raise ValueError(f"x must be (B, {self.in_channels}, H, W) or without B, got {tuple(input.shape)}")
        if self.epilogue is not None and self.waits(input):
            size = self.conv.output_size(*input.shape[-2:])
            return Waiting.of(self, input, (*input.shape[:-3], self.out_channels, *size))
        return self.format.conv2d(input, self.live_bias(), self.conv)

    def finished(self, x: Tensor, activation: str | None, residual: Tensor | None) -> Tensor:
        """Return ``activation(forward(x) + residual)``."""
        return self.format.finished(x, self.live_bias(), activation, residual, self.conv)

    def extra_repr(self) -> str:
        sizes = ", ".join(f"{name}={value}" for name, value in self.conv._asdict().items())
        return f"{self.in_channels}, {self.out_channels}, {sizes}, bias={self.bias is not None}"


def sparse_layer(layer: nn.Linear | nn.Conv2d, format: Format) -> Sparse:
    """Return the layer with its weight in ``format``, which learns if the weight of the layer did.

    Raises:
        ValueError: no sparse layer has the geometry of the layer.
    """
    format.requires_grad_(layer.weight.requires_grad)
    if isinstance(layer, nn.Conv2d):
        return SparseConv2d.from_format(format, layer.bias, layer).train(layer.training)
    return SparseLinear.from_format(format, layer.bias).train(layer.training)
