"""Everything a pruned layer could run as."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import nn

from smart_kernels.formats import BSR, ELL, JIT, Compact, Format, Groups
from smart_kernels.formats.resident import KERNELS, LAYOUTS
from smart_kernels.formats.union import worth_uniting
from smart_kernels.nn.sparse_base import geometry, matrix, weight_shape
from smart_kernels.patterns import Pattern

from .nm import groups_of
from .plan import sparse_format, tile_of, wrap

DENSE = ("dense", "packed")  # what a dense layer may run as; the best of them is the baseline of every speed-up
ELL_VARIANTS = tuple((engine, buckets) for engine in ("onednn", "bmm") for buckets in (1, 2, 4, 8))
ELL_ROWS = 8  # shorter tiles gather more than they multiply

Layer = nn.Linear | nn.Conv2d
Builds = Iterator[tuple[str, Callable[[], Format]]]


@dataclass(frozen=True)
class Zeros:
    """What the zeros of a layer are made of.

    Attributes:
        tile: (tile_n, tile_k) of which all or nothing is kept, or None.
        groups: the n:m of which they are, or None.
    """

    layer: Layer
    tile: tuple[int, int] | None
    groups: Groups | None

    @classmethod
    def of(cls, layer: Layer, pattern: Pattern | None) -> "Zeros":
        """Those of the pattern, or those that the weight shows."""
        return cls(layer, tile_of(layer, pattern), groups_of(layer, pattern))

    @cached_property
    def bsr(self) -> BSR:
        return sparse_format(self.layer, BSR.name, self.tile)

    @property
    def kernels(self) -> set[tuple[str, torch.dtype]]:
        """Those for sparse tensor cores, with the dtype: for 2:4 in 16 bits on a GPU, one tap."""
        weight = self.layer.weight
        fits = self.groups is not None and self.groups[:2] == (2, 4) and weight_shape(self.layer).taps == 1
        return {(kernel, weight.dtype) for kernel in KERNELS if fits and weight.is_cuda and weight.element_size() == 2}


def candidates(zeros: Zeros, backends: tuple[str, ...]) -> dict[str, nn.Module]:
    """By label; ``"dense"`` is the layer itself. A format that cannot hold the weight is left out."""
    layer = zeros.layer
    found: dict[str, nn.Module] = {"dense": layer}
    if isinstance(layer, nn.Conv2d):
        try:
            geometry(layer)
        except ValueError:
            return found
    for name in backends:
        for label, build in BUILDS[name](zeros):
            try:
                found[label] = wrap(build(), layer)
            except ValueError:
                continue
    return found


def _packed(zeros: Zeros) -> Builds:
    yield "packed", partial(sparse_format, zeros.layer, "packed", zeros.tile)


def _compact(zeros: Zeros) -> Builds:
    weight = matrix(zeros.layer)
    compact = Compact.from_dense(weight, (1, 1), taps=weight_shape(zeros.layer).taps)
    if compact.values.numel() < weight.numel():
        yield "compact", lambda: compact


def _blocks(zeros: Zeros) -> bool:
    return zeros.tile is not None and bool((zeros.layer.weight == 0).any())


def _ell(zeros: Zeros) -> Builds:
    if not _blocks(zeros) or zeros.tile[0] < ELL_ROWS or zeros.layer.weight.device.type != "cpu":
        return
    lengths = zeros.bsr.blocks().ne(0).any(-1).any(-1).any(1).sum(1).unique().count_nonzero().item()
    for engine, buckets in ELL_VARIANTS:
        if buckets == 1 or buckets // 2 < lengths:  # else no more buckets than with half as many
            yield f"ell {engine} {buckets}", partial(ELL.from_bsr, zeros.bsr, engine, buckets)


def _jit(zeros: Zeros) -> Builds:
    if _blocks(zeros):
        yield "jit", partial(JIT.from_bsr, zeros.bsr)


def _bsr(zeros: Zeros) -> Builds:
    """Also with rows of tiles united, which only tensor cores gain from."""
    if not _blocks(zeros):
        return
    yield "bsr", lambda: zeros.bsr
    if zeros.layer.weight.is_cuda:
        for count in worth_uniting(zeros.bsr.crow_indices, zeros.bsr.col_indices, zeros.tile[0]):
            yield f"bsr union {count}", partial(zeros.bsr.united, count)


def _semi_structured(zeros: Zeros) -> Builds:
    if zeros.groups is None:
        return
    for layout in LAYOUTS if zeros.kernels else LAYOUTS[:1]:
        yield f"nm {layout}", partial(sparse_format, zeros.layer, "nm", None, layout=layout, **zeros.groups._asdict())


def _cusparselt(zeros: Zeros) -> Builds:
    if zeros.groups is not None and zeros.groups[:2] == (2, 4):
        yield "cusparselt", partial(sparse_format, zeros.layer, "cusparselt", None, **zeros.groups._asdict())


BUILDS: dict[str, Callable[[Zeros], Builds]] = {
    "dense": lambda zeros: iter(()),
    "packed": _packed,
    "compact": _compact,
    "ell": _ell,
    "jit": _jit,
    "bsr": _bsr,
    "nm": _semi_structured,
    "cusparselt": _cusparselt,
}
BACKENDS = tuple(BUILDS)
