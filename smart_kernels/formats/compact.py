from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_kernels.shapes import Conv

from .base import Candidate, Format
from .packed import pack_conv, pack_linear
from .processor import onednn_takes
from .views import kernel

GRANULES = (64, 32, 16, 8, 4, 2, 1)


class Compact(Format):
    """Dead output and dead input channels dropped: a smaller dense product.

    Attributes:
        values: (live rows, taps * live channels) Parameter.
        rows: (live rows,) int64, the output channels it computes; the others are the bias alone.
        cols: (live channels,) int64, the input channels it reads.
    """

    name = "compact"
    saves = ("values", "rows", "cols")

    def __init__(self, values: Tensor, rows: Tensor, cols: Tensor, shape: tuple[int, int], taps: int = 1):
        super().__init__(shape, taps)
        if values.shape != (rows.numel(), taps * cols.numel()):
            raise ValueError(f"values must be {(rows.numel(), taps * cols.numel())}, got {tuple(values.shape)}")
        self.values = nn.Parameter(values)
        self.register_buffer("rows", rows)
        self.register_buffer("cols", cols)
        self._check(rows, cols)

    @classmethod
    def from_dense(cls, weight, tile, *, taps=1, keep=None):
        keep = (weight != 0 if keep is None else keep).unflatten(1, (taps, -1))
        rows = keep.any(2).any(1).nonzero()[:, 0]
        cols = keep.any(1).any(0).nonzero()[:, 0]
        values = weight.detach().unflatten(1, (taps, -1))[rows][..., cols].flatten(1)
        return cls(values, rows, cols, weight.shape, taps)

    @classmethod
    def candidates(cls, zeros):
        live = (zeros.weight != 0).unflatten(1, (zeros.taps, -1))
        if not live.any(2).any(1).all() or not live.any(1).any(0).all():
            yield Candidate(cls.name, {})

    def to_dense(self):
        channels = self.shape[1] // self.taps
        wide = self.values.new_zeros(len(self.rows), self.taps, channels)
        wide = wide.index_copy(2, self.cols, self.values.unflatten(1, (self.taps, -1)))
        return self.values.new_zeros(self.shape).index_copy(0, self.rows, wide.flatten(1))

    def linear(self, x, bias=None):
        small, read, write = self.prepared(self._prepare) if self.fast(x, bias) else self._plain()
        return write(small(read(x), None if bias is None else bias[self.rows]), bias)

    def conv2d(self, x, bias, conv):
        if conv.pointwise:
            return super().conv2d(x, bias, conv)
        fast = x.dim() == 4 and self.fast(x, bias, dim=1)
        small, read, write = self.prepared(self._prepare, conv) if fast else self._plain(conv)
        y = small(read(x.movedim(-3, -1)).movedim(-1, -3), None if bias is None else bias[self.rows])
        return write(y.movedim(-3, -1), bias).movedim(-1, -3)

    def _plain(self, conv: Conv | None = None) -> tuple[Callable, Callable, Callable]:
        channels = self.shape[1] // self.taps
        if conv is None:
            small = partial(_linear, self.values)
        elif self.values.numel():
            small = partial(_conv2d, kernel(self.values, conv), conv)
        else:
            small = partial(_nothing, conv)
        return small, _reader(self.cols, channels, 1), _writer(self.rows, self.shape[0], 1)

    def _prepare(self, conv: Conv | None = None) -> tuple[Callable, Callable, Callable]:
        small = self._plain(conv)[0]
        channels = self.shape[1] // self.taps
        if onednn_takes(self.values) and self.values.numel():
            values = self.values.detach()
            small = pack_linear(values) if conv is None else _channels_last(pack_conv(kernel(values, conv), conv))
        read = _reader(self.cols, channels, _granule(self.cols, channels))
        return small, read, _writer(self.rows, self.shape[0], _granule(self.rows, self.shape[0]))

    def _check(self, rows: Tensor, cols: Tensor) -> None:
        for name, index, size in (("rows", rows, self.shape[0]), ("cols", cols, self.shape[1] // self.taps)):
            if index.dtype != torch.int64 or index.dim() != 1:
                raise ValueError(f"{name} must be a list of int64, got {tuple(index.shape)} {index.dtype}")
            # smallest and largest first: differences of numbers beyond them may overflow
            if index.numel() and (index.min() < 0 or index.max() >= size or (index.diff() <= 0).any()):
                raise ValueError(f"{name} must be ascending and within [0, {size}), got {index.tolist()}")

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if {f"{prefix}rows", f"{prefix}cols"} <= state_dict.keys():
            self._check(state_dict[f"{prefix}rows"], state_dict[f"{prefix}cols"])
        super()._load_from_state_dict(state_dict, prefix, *args)


def _linear(weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias)


def _conv2d(weight: Tensor, conv: Conv, x: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, weight, bias, *conv[1:])


def _nothing(conv: Conv, x: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_zeros(*x.shape[:-3], 0, *conv.output_size(*x.shape[-2:]))


def _granule(index: Tensor, size: int) -> int:
    """Return the largest aligned run that the sorted index is made of: long runs copy faster."""
    chosen = torch.zeros(size, dtype=torch.bool, device=index.device).index_fill_(0, index, True)
    for granule in GRANULES:
        if size % granule == 0 and index.numel() % granule == 0:
            runs = chosen.view(-1, granule)
            if bool((runs.all(1) == runs.any(1)).all()):
                return granule
    return 1


def _reader(index: Tensor, size: int, granule: int) -> Callable[[Tensor], Tensor]:
    """Return a function that selects along the last dimension."""
    if index.numel() == size:
        return lambda x: x
    runs = index[::granule] // granule
    return lambda x: x.unflatten(-1, (-1, granule)).index_select(-2, runs).flatten(-2)


def _writer(index: Tensor, size: int, granule: int) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Return a function that spreads along the last dimension; what is not written is the bias."""
    if index.numel() == size:
        return lambda y, bias: y
    runs = index[::granule] // granule

    def write(y, bias):
        full = y.new_zeros(size) if bias is None else bias
        full = full.expand(*y.shape[:-1], size).unflatten(-1, (-1, granule))
        return full.index_copy(-2, runs, y.unflatten(-1, (-1, granule))).flatten(-2)

    return write


def _channels_last(product: Callable[[Tensor, Tensor | None], Tensor]) -> Callable[[Tensor, Tensor | None], Tensor]:
    return lambda x, bias: product(x.contiguous(memory_format=torch.channels_last), bias)
