"""The base of the sparse layers, and convolutions as matrices."""

from math import prod

import torch
from torch import Tensor, nn

from smart_kernels.formats import Conv, Format
from smart_kernels.formats.prepared import eager_inference
from smart_kernels.patterns import Pattern, WeightShape

from .epilogue import Epilogue
from .reading import Reading

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)  # weights with input channels first


class Sparse(nn.Module):
    """Base of ``SparseLinear`` and ``SparseConv2d``.

    ``weight`` reads as the dense weight, differentiable in what is stored, because ``nn.MultiheadAttention`` and the
    fast path of ``nn.TransformerEncoderLayer`` read it without calling ``forward``. It is computed at each reading, so
    changing it in place is an error; what trains is in ``format``.

    Attributes:
        format: how the weight is stored.
        live: (N,) 0 where an output channel is dead, bias included; None where no channel can be.
        epilogue: what follows the layer in its model and is computed with it in inference, see ``Waiting``; or None.
    """

    epilogue: Epilogue | None = None

    def _store(self, format: Format, bias: Tensor | None, live: Tensor | None = None) -> None:
        self.format = format
        # the properties below stand in front of register_parameter
        self._parameters["bias"] = None if bias is None else _parameter(bias)
        self.register_buffer("live", live)

    def _prune(self, weight: Tensor, bias: Tensor | None, pattern: Pattern, keep: Tensor) -> None:
        """Store an (N, taps, C) weight where ``keep`` (rows, cols) per score is 1."""
        shape = WeightShape(*weight.shape)
        mask = pattern.expand(keep.to(weight.device), shape).bool().flatten(1)
        matrix = torch.where(mask, weight.detach().flatten(1), 0)
        storage = pattern.storage(shape)
        tile = storage.tile or (1, 1)
        format = storage.format.from_dense(matrix, tile, taps=shape.taps, keep=mask, **storage.options)
        live = mask.any(1).to(weight.dtype) if pattern.whole_channels else None
        self._store(format, bias, live)

    def dense_weight(self) -> Tensor:
        """Return the weight of the plain layer, computed from what is stored."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """Return the weight of the plain layer, to be read and not to be changed."""
        return Reading.of(self.dense_weight())

    @property
    def bias(self) -> Tensor | None:
        """Return (N,) or None; 0 where a pruned channel is dead, and then to be read only."""
        bias = self.live_bias()
        return bias if self.live is None or bias is None else Reading.of(bias)

    def waits(self, x: Tensor) -> bool:
        """Return whether the output is computed with what follows, and not now."""
        return self.epilogue is not None and eager_inference(x, self.format.values, self._parameters["bias"])

    def live_bias(self) -> Tensor | None:
        """Return what is added: the Parameter, or where channels may be dead, what is left of it."""
        bias = self._parameters["bias"]
        return bias if bias is None or self.live is None else bias * self.live


def geometry(conv: nn.Conv2d) -> Conv:
    """Return kernel, stride, padding and dilation of a convolution.

    Raises:
        ValueError: for what a sparse convolution has no form: groups, padding modes, an even kernel padded to "same".
    """
    if conv.groups != 1 or conv.padding_mode != "zeros":
        raise ValueError(f"a sparse convolution has groups=1 and zero padding, got {conv.groups}, {conv.padding_mode}")
    padding = conv.padding
    if isinstance(padding, str):
        padding = conv._reversed_padding_repeated_twice[::-1]
        if padding[0::2] != padding[1::2]:
            raise ValueError(f"padding={conv.padding!r} must be the same on both sides, got {padding}")
        padding = padding[0::2]
    return Conv(conv.kernel_size, conv.stride, tuple(padding), conv.dilation)


def matrix(layer: nn.Module) -> Tensor:
    """Return (N, taps * C), the weight of a plain Linear or convolution, input channels next to each other."""
    weight = layer.weight.detach()
    if weight.dim() == 2:
        return weight
    return weight.flatten(2).permute(*((1, 2, 0) if isinstance(layer, TRANSPOSED) else (0, 2, 1))).flatten(1)


def weight_shape(layer: nn.Module) -> WeightShape:
    """Return (N, taps, C) of a plain Linear or convolution."""
    N, C, *size = layer.weight.shape
    return WeightShape(*((C, prod(size), N) if isinstance(layer, TRANSPOSED) else (N, prod(size), C)))


def _parameter(tensor: Tensor) -> nn.Parameter:
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)


def empty_layer(cls: type[nn.Module], **attributes) -> nn.Module:
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    module.__dict__.update(attributes)
    return module


def plain_layer(module: nn.Module, sparse: Sparse) -> nn.Module:
    learns = any(parameter.requires_grad for parameter in sparse.format.parameters())
    module.weight = nn.Parameter(sparse.dense_weight().detach().clone(), learns)
    if sparse.bias is not None:
        module.bias = sparse._parameters["bias"]
        if sparse.live is not None:
            module.bias = nn.Parameter(sparse.live_bias().detach().clone(), module.bias.requires_grad)
    return module.train(sparse.training)
