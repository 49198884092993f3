"""How a pruned weight is stored, and the product that reads it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_kernels.ops.common import pixels
from smart_kernels.reference.common import finish
from smart_kernels.shapes import Conv

from .prepared import GEOMETRIES, Prepared, alike, eager_inference, state
from .views import kernel
from .zeros import Candidate, Zeros


class Format(nn.Module, ABC):
    """Base of all storage formats of an (N, K) weight: a format is one class that describes itself.

    The weight of a convolution is the matrix (N, taps * C), input channels next to each other. What is stored are
    Parameters and buffers, so ``state_dict``, ``.to()`` and ``copy.deepcopy`` need nothing special; what a fast path
    derives from them is ``prepared``, for one state of the tensors and one geometry, and asks for both at every call.

    A new format is a subclass with ``name``, ``from_dense``, ``to_dense`` and ``linear``, and a line in ``FORMATS``.

    Attributes:
        name: how reports and saved models call the format.
        dense: zeros are stored and multiplied; the best such format is the baseline of every speed-up.
        saves: the tensors of ``state_dict`` that a weight is saved as in this form; empty where it is saved as another.
        values: Parameter, the weights that are stored.
        shape: (N, K).
        taps: kernel positions, 1 for a linear layer.
    """

    name: ClassVar[str]
    dense: ClassVar[bool] = False
    saves: ClassVar[tuple[str, ...]] = ()
    _cache: Prepared | None = None

    def __init__(self, shape: tuple[int, int], taps: int = 1):
        super().__init__()
        if shape[1] % taps:
            raise ValueError(f"columns must be taps * channels, got {shape[1]} columns and {taps} taps")
        self.shape = (shape[0], shape[1])
        self.taps = taps

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

    @classmethod
    def from_zeros(cls, zeros: Zeros, **options) -> "Format":
        """Store a weight whose zeros are known, with the options of a candidate.

        Raises:
            ValueError: where the format cannot hold the weight.
        """
        return cls.from_dense(zeros.weight, zeros.tile or (1, 1), taps=zeros.taps, **options)

    @classmethod
    def from_saved(cls, tensors: list[Tensor], shape: tuple[int, int], taps: int) -> "Format":
        """Rebuild the format from the tensors that ``saves`` names, in that order.

        Raises:
            ValueError: they do not fit each other or the shape.
        """
        return cls(*tensors, shape, taps)

    @classmethod
    def candidates(cls, zeros: Zeros) -> Iterator[Candidate]:
        """Yield the variants that a layer with such zeros may gain from; ``from_zeros`` may still refuse one."""
        yield Candidate(cls.name, {})

    @classmethod
    def remark(cls, zeros: Zeros) -> str:
        """Say in a line what a report should hold about the candidates; nothing by default."""
        return ""

    @classmethod
    def lacking(cls, device: torch.device, dtype: torch.dtype, **options) -> str | None:
        """Say in a line why a device cannot run a variant which it would run if more were installed; else None."""
        return None

    @abstractmethod
    def to_dense(self) -> Tensor:
        """Return (N, K), differentiable in what is stored."""

    @abstractmethod
    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return ``x @ weight.T + bias``: (..., K) -> (..., N)."""

    def conv2d(self, x: Tensor, bias: Tensor | None, conv: Conv) -> Tensor:
        """Return the convolution: (B, C, H, W) -> (B, N, H', W')."""
        if conv.pointwise:
            return self.linear(pixels(x, conv.stride), bias).movedim(-1, -3)
        return F.conv2d(x, kernel(self.to_dense(), conv), bias, *conv[1:])

    def finished(
        self, x: Tensor, bias: Tensor | None, activation: str | None, residual: Tensor | None, conv: Conv | None = None
    ) -> Tensor:
        """Return ``activation(y + residual)``, y of ``linear`` or ``conv2d``; activations: ``ACTIVATIONS`` or None."""
        if not self.fuses() or (conv is not None and x.dim() != 4):
            y = self.linear(x, bias) if conv is None else self.conv2d(x, bias, conv)
            return finish(y, None, residual, activation)
        if conv is None:
            return self.linear(x, bias, activation, residual)
        if not conv.pointwise:
            return self.conv2d(x, bias, conv, activation, residual)
        rest = None if residual is None else residual.movedim(1, 3)
        return self.linear(pixels(x, conv.stride), bias, activation, rest).movedim(3, 1)

    def fuses(self) -> bool:
        """Return whether ``linear`` and ``conv2d`` take activation and residual, too, for one launch on this device."""
        return False

    def expect(self, conv: Conv) -> None:
        """Be told that the weight will be that of this convolution: what follows from that can be made now."""

    @property
    def nbytes(self) -> int:
        """Return the bytes of what is stored."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state_dict().values())

    def options(self) -> dict:
        """Return the keyword arguments of ``from_dense`` that build this variant of the format."""
        return {}

    def runs(self, values: Tensor) -> bool:
        """Return whether the fast path has products for the dtype and device that ``values`` have now."""
        return True

    def fast(self, x: Tensor, bias: Tensor | None, dim: int = -1) -> bool:
        """Return whether ``prepared`` may stand in for the plain formula at this call.

        Args:
            x: its channels are dimension ``dim``: -1 of a linear layer, 1 of a convolution.
            bias: (N,) or None.

        Returns:
            False where x or bias are not what the values are, in dtype, device or size: the plain formula says so.
        """
        values = self._parameters["values"]  # an attribute of a module is found through three dictionaries
        if not eager_inference(x, values, bias) or not alike(x, values):
            return False
        rows, columns = self.shape
        channels = columns if dim == -1 else columns // self.taps
        if bias is not None and not (bias.shape == (rows,) and alike(bias, values)):
            return False
        return x.numel() > 0 and x.dim() > 0 and x.shape[dim] == channels and self.runs(values)

    def prepared(self, build: Callable, *geometry: Conv | None, of: tuple[Tensor, ...] | None = None):
        """Return ``build(*geometry)``, kept while the stored tensors, or those named, are what they were.

        Each geometry has its own, so a format has one ``build``. Layers of other geometry may share the format.
        """
        tensors = (*self._parameters.values(), *self._buffers.values()) if of is None else of
        now = state(*tensors)
        if self._cache is None or self._cache.built_for != now:
            self._cache = Prepared(now, tuple(t.detach() for t in tensors if t is not None), {})
        built = self._cache.by_geometry
        if geometry not in built:
            if len(built) == GEOMETRIES:
                built.clear()
            built[geometry] = build(*geometry)
        return built[geometry]

    def _apply(self, fn, recurse=True):
        self._cache = None  # frees what belongs to the old tensors
        return super()._apply(fn, recurse)

    def __getstate__(self):
        return {**self.__dict__, "_cache": None}  # packed tensors can be neither copied nor pickled

    def extra_repr(self) -> str:
        return f"{self.shape[0]}x{self.shape[1]}, {self.nbytes} bytes"
