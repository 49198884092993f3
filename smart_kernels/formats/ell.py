"""Block sparse products on a CPU, from dense ones.

    x   | a | b | c | d |        the block columns a block row needs are gathered, then multiplied at once:

    row 0: a . . d   gather -> | a d |          one grouped product for all rows of a bucket,
    row 1: . b c .             | b c |          group i = row i: (M, L * tile_c) x (L * tile_c, tile_n)
    row 2: . b . .             | b |            its own bucket: padding it to L = 2 would double its work

Rows are bucketed by length, because real masks are uneven. The grouped product is a grouped convolution of oneDNN,
which reads and writes (M, groups, channels) as it lies in memory and takes kernels larger than 1x1 as well; or, where
few rows of x leave no work to hide its call behind, a batched matrix product.
"""

import torch
from torch import Tensor

from smart_kernels.shapes import Conv

from .base import Candidate
from .bsr import BSR
from .buckets import Buckets, even, sort_into_buckets
from .packed import POINT
from .processor import check_onednn, onednn_lacks, onednn_takes
from .views import filled

ENGINES = ("onednn", "bmm")
VARIANTS = tuple((engine, buckets) for engine in ENGINES for buckets in (1, 2, 4, 8))
SHORTEST = 8  # rows of a tile; shorter ones gather more than they multiply
GATHERED = 2**22  # bytes at a time: they stay in the cache, and the allocator has them at hand
ROWS = 16  # of x: pieces are equal multiples of it, which is faster than any length, decision 0043


class ELL(BSR):
    """BSR read bucket by bucket through gathers and grouped dense products. CPU inference; trains as BSR.

    Args:
        engine: ``"onednn"`` (float32, and bfloat16 where oneDNN packs it) or ``"bmm"`` (any dtype; linear and pointwise
            only).
        buckets: at most how many.
    """

    name = "ell"
    saves = ()  # saved as BSR
    engine = "onednn"
    buckets = 4

    @classmethod
    def from_dense(cls, weight, tile, *, taps=1, keep=None, engine="onednn", buckets=4):
        return cls.from_bsr(BSR.from_dense(weight, tile, taps=taps, keep=keep), engine, buckets)

    @classmethod
    def from_bsr(cls, bsr: BSR, engine: str = "onednn", buckets: int = 4) -> "ELL":
        """Return a format of the same stored tensors that reads them another way."""
        if engine not in ENGINES or buckets < 1:
            raise ValueError(f"engine must be one of {ENGINES} and buckets positive, got {engine!r} and {buckets}")
        if engine == "onednn":
            check_onednn(bsr.values, "engine onednn")
        if engine == "bmm" and bsr.taps > 1:
            raise ValueError(f"engine bmm takes linear layers and 1x1 convolutions, got {bsr.taps} taps")
        self = cls(bsr.values, bsr.crow_indices, bsr.col_indices, bsr.shape, bsr.taps)
        self.engine = engine
        self.buckets = buckets
        return self

    @classmethod
    def from_zeros(cls, zeros, **options):
        return cls.from_bsr(BSR.of(zeros), **options)

    @classmethod
    def candidates(cls, zeros):
        if zeros.weight.device.type != "cpu" or zeros.tile is None or zeros.tile[0] < SHORTEST or not zeros.any():
            return
        lengths = BSR.of(zeros).blocks().ne(0).any(-1).any(-1).any(1).sum(1).unique().count_nonzero().item()
        for engine, buckets in VARIANTS:
            if buckets == 1 or buckets // 2 < lengths:  # else no more buckets than with half as many
                yield Candidate(f"{cls.name} {engine} {buckets}", {"engine": engine, "buckets": buckets})

    @classmethod
    def lacking(cls, device, dtype, *, engine="onednn", **options):
        return onednn_lacks(device, dtype) if engine == "onednn" else None

    def options(self):
        return {"engine": self.engine, "buckets": self.buckets}

    def linear(self, x, bias=None):
        if not self.fast(x, bias):
            return super().linear(x, bias)
        found = self.prepared(self._sorted, POINT)
        y = self._pieces(x.reshape(1, -1, 1, x.shape[-1]), self._ordered(bias, found), POINT, found)
        return self._cropped(y).reshape(*x.shape[:-1], self.shape[0])

    def conv2d(self, x, bias, conv):
        if conv.pointwise or self.engine == "bmm" or x.dim() != 4 or not self.fast(x, bias, dim=1):
            return super().conv2d(x, bias, conv)
        found = self.prepared(self._sorted, conv)
        y = self._pieces(x.movedim(1, 3).contiguous(), self._ordered(bias, found), conv, found)
        return self._cropped(y).movedim(3, 1)

    def runs(self, values):
        return onednn_takes(values) if self.engine == "onednn" else values.is_cpu

    def _ordered(self, bias: Tensor | None, found: Buckets) -> Tensor:
        """Return the bias (block rows * tile_n,) in order of computation."""
        if bias is None:
            return found.zeros
        bias = filled(bias, len(found.zeros))
        return bias if found.order is None else bias.view(found.sizes[:2]).index_select(0, found.order).view(-1)

    def _cropped(self, y: Tensor) -> Tensor:
        return y if y.shape[3] == self.shape[0] else y[..., : self.shape[0]].contiguous()

    def _pieces(self, x: Tensor, bias: Tensor, conv: Conv, found: Buckets) -> Tensor:
        """Run as many rows or images at a time as ``GATHERED`` holds, one piece after the other."""
        dim, unit = (1, ROWS) if conv == POINT else (0, 1)
        size = x.shape[dim]
        step = even(size, unit, GATHERED * size // max(1, found.gathered * x[..., :1].nbytes))
        if step >= size:
            return self._run(x, bias, conv, found)
        y = x.new_empty(x.shape[0], *conv.output_size(*x.shape[1:3]), len(found.zeros))
        for piece, out in zip(x.split(step, dim), y.split(step, dim), strict=True):
            self._run(piece, bias, conv, found, out)
        return y

    def _run(self, x: Tensor, bias: Tensor, conv: Conv, found: Buckets, out: Tensor | None = None) -> Tensor:
        """Map (B, H, W, C) to (B, H', W', block rows * tile_n), into ``out`` if given."""
        rows, tile_n, cols, tile_c = found.sizes
        pixels = filled(x, cols * tile_c).reshape(-1, cols, tile_c)  # index_select is fast in three dimensions
        parts = []
        done = 0
        for bucket in found.buckets:
            piece = bias[done : done + bucket.outputs]
            parts.append(bucket.product(pixels.index_select(1, bucket.cols).view(*x.shape[:3], -1), piece))
            done += bucket.outputs
        if done < len(bias):  # dead rows
            parts.append(bias[done:].expand(x.shape[0], *conv.output_size(*x.shape[1:3]), -1))
        # dead rows alone would be the bias itself, seen many times
        y = parts[0] if len(parts) == 1 and done else torch.cat(parts, 3)
        if found.place is None:
            return y if out is None else out.copy_(y)
        blocks = (rows, tile_n)
        out = None if out is None else out.unflatten(3, blocks)
        return torch.index_select(y.unflatten(3, blocks), 3, found.place, out=out).flatten(3)

    def _sorted(self, conv: Conv) -> Buckets:
        return sort_into_buckets(self.blocks().detach(), self.engine, self.buckets, conv)
