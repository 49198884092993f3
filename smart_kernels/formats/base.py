"""How a pruned weight is stored, and the product that reads it."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_kernels.shapes import Conv


class Format(nn.Module, ABC):
    """Base of all storage formats of an (N, K) weight.

    The weight of a convolution is the matrix (N, taps * C), input channels next to each other. What is stored are
    Parameters and buffers, so ``state_dict``, ``.to()`` and ``copy.deepcopy`` need nothing special; what a fast path
    derives from them is a cache that is rebuilt when they change.

    Attributes:
        name: how reports and saved models call the format.
        shape: (N, K).
        taps: kernel positions, 1 for a linear layer.
    """

    name: ClassVar[str]
    _cache = None

    def __init__(self, shape: tuple[int, int], taps: int = 1):
        super().__init__()
        if shape[1] % taps:
            raise ValueError(f"columns must be taps * channels, got {shape[1]} columns and {taps} taps")
        self.shape, self.taps = (shape[0], shape[1]), taps

    @classmethod
    @abstractmethod
    def from_dense(
        cls, weight: Tensor, tile: tuple[int, int], *, taps: int = 1, keep: Tensor | None = None
    ) -> "Format":
        """Store a weight.

        Args:
            weight: (N, K) with zeros.
            tile: (tile_n, tile_c) what was kept or pruned together.
            taps: kernel positions in K.
            keep: (N, K) bool, what is stored although it may be zero; default ``weight != 0``.

        Raises:
            ValueError: where the format cannot hold the weight.
        """

    @abstractmethod
    def to_dense(self) -> Tensor:
        """(N, K), differentiable in what is stored."""

    @abstractmethod
    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x @ weight.T + bias``: (..., K) -> (..., N)."""

    def conv2d(self, x: Tensor, bias: Tensor | None, conv: Conv) -> Tensor:
        """(B, C, H, W) -> (B, N, H', W')."""
        if conv.pointwise:
            return self.linear(pixels(x, conv), bias).movedim(-1, -3)
        return F.conv2d(x, kernel(self.to_dense(), conv), bias, *conv[1:])

    def expect(self, conv: Conv) -> None:
        """The weight will be that of this convolution: what follows from that can be made now."""

    @property
    def nbytes(self) -> int:
        """Bytes of what is stored."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state_dict().values())

    def options(self) -> dict:
        """Keyword arguments of ``from_dense`` that build this variant of the format."""
        return {}

    def prepared(self, build, *args, of: tuple[Tensor, ...] | None = None):
        """``build(*args)``, kept until a stored tensor changes, or one of those named."""
        key = version(*((*self._parameters.values(), *self._buffers.values()) if of is None else of))
        if self._cache is None or self._cache[0] != key:
            self._cache = key, build(*args)
        return self._cache[1]

    def __getstate__(self):
        return {**self.__dict__, "_cache": None}  # packed tensors can be neither copied nor pickled

    def extra_repr(self) -> str:
        return f"{self.shape[0]}x{self.shape[1]}, {self.nbytes} bytes"


def version(*tensors: Tensor | None) -> tuple:
    """Changes when one of the tensors does."""
    return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors if t is not None)


def eager_inference(x: Tensor, *tensors: Tensor | None) -> bool:
    """No gradient, no compiler and no autocast: a prepared fast path may stand in for the plain formula."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type):
        return False
    return not torch.is_grad_enabled() or not any(t is not None and t.requires_grad for t in (x, *tensors))


def pixels(x: Tensor, conv: Conv) -> Tensor:
    """(B, C, H, W) -> (B, H', W', C), what a pointwise convolution reads."""
    height, width = conv.stride
    return (x if conv.stride == (1, 1) else x[..., ::height, ::width]).movedim(-3, -1)


def kernel(matrix: Tensor, conv: Conv) -> Tensor:
    """(N, taps * C) -> (N, C, kh, kw) view."""
    return matrix.unflatten(1, (*conv.kernel, -1)).permute(0, 3, 1, 2)


def filled(tensor: Tensor, size: int) -> Tensor:
    """Zeros behind the last dimension up to ``size``; F.pad would copy even where there are none to add."""
    return tensor if tensor.shape[-1] == size else F.pad(tensor, (0, size - tensor.shape[-1]))
