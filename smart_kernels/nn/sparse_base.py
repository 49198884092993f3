"""What the sparse layers have in common, and how a convolution becomes a matrix."""

import torch
from torch import Tensor, nn

from smart_kernels.formats import BSR, Compact, Conv, Dense, Format, SemiStructured
from smart_kernels.formats.semi_structured import GROUPS
from smart_kernels.patterns import NM, Pattern, WeightShape

FORMATS: dict[str, type[Format]] = {"block": BSR, "channel": Compact}  # by pattern name


class Sparse(nn.Module):
    """What ``SparseLinear`` and ``SparseConv2d`` have in common.

    ``weight`` reads as the dense weight, differentiable in what is stored, because ``nn.MultiheadAttention`` and the
    fast path of ``nn.TransformerEncoderLayer`` read it without calling ``forward``.

    Attributes:
        format: how the weight is stored.
        live: (N,) 0 where an output channel is dead, bias included; None where no channel can be.
    """

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
        cls, options = format_of(pattern, shape)
        format = cls.from_dense(matrix, pattern.tile(shape), taps=shape.taps, keep=mask, **options)
        live = mask.any(1).to(weight.dtype) if pattern.name == "channel" else None
        self._store(format, bias, live)

    @property
    def bias(self) -> Tensor | None:
        """(N,) or None; 0 where a pruned channel is dead."""
        bias = self._parameters["bias"]
        return bias if bias is None or self.live is None else bias * self.live


def format_of(pattern: Pattern, shape: WeightShape) -> tuple[type[Format], dict]:
    """The format that stores what a pattern keeps and nothing else, and its options; Dense for groups without one."""
    if not isinstance(pattern, NM):
        return FORMATS[pattern.name], {}
    if pattern.m not in GROUPS:
        return Dense, {}
    transposable = pattern.transposable and shape.N % 4 == 0 and shape.C % 4 == 0
    return SemiStructured, {"n": pattern.n, "m": pattern.m, "transposable": transposable}


def geometry(conv: nn.Conv2d) -> Conv:
    """Kernel, stride, padding and dilation of a convolution.

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


def matrix(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """(N, taps * C) weight of a plain layer, input channels next to each other."""
    weight = layer.weight.detach()
    return weight if weight.dim() == 2 else weight.permute(0, 2, 3, 1).flatten(1)


def _parameter(tensor: Tensor) -> nn.Parameter:
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)


def empty_layer(cls: type[nn.Module], **attributes) -> nn.Module:
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    module.__dict__.update(attributes)
    return module


def plain_layer(module: nn.Module, sparse: Sparse) -> nn.Module:
    module.weight = nn.Parameter(sparse.weight.detach().clone())
    if sparse.bias is not None:
        module.bias = _parameter(sparse.bias.detach().clone() if sparse.live is not None else sparse.bias)
    return module.train(sparse.training)
