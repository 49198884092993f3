"""Block sparse products on a CPU in instructions of their own (optional: llvmlite)."""

import ctypes
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.shapes import Conv

from . import simd
from .base import Candidate
from .bsr import BSR
from .packed import POINT
from .vector_code import CALL, LAYOUT, Spec
from .views import filled

CHUNK = 512  # rows of x at a time: they stay in the cache while all block rows read them
SIZES = 64  # how many sizes of x a layer remembers the layout of
Call = ctypes.c_int64 * len(CALL)
Layout = ctypes.c_int64 * len(LAYOUT)


class JIT(BSR):
    """BSR read by code that is compiled for it, at the first product with a new number of rows. Trains as BSR.

    float32 on a CPU with AVX-512, AVX2 or NEON; blocks of a multiple of 8 rows. Runs on torch's threads.
    """

    name = "jit"
    saves = ()  # saved as BSR

    @classmethod
    def from_dense(cls, weight, tile, *, taps=1, keep=None):
        return cls.from_bsr(BSR.from_dense(weight, tile, taps=taps, keep=keep))

    @classmethod
    def from_bsr(cls, bsr: BSR) -> "JIT":
        """Return a format of the same stored tensors that reads them another way."""
        simd.machine()
        values = bsr.values
        if values.dtype != torch.float32 or values.device.type != "cpu" or bsr.tile[0] % 8:
            got = f"{bsr.tile[0]} rows of {values.dtype} on {values.device}"
            raise ValueError(f"jit needs blocks of a multiple of 8 rows, float32, on a CPU, got {got}")
        return cls(values, bsr.crow_indices, bsr.col_indices, bsr.shape, bsr.taps)

    @classmethod
    def from_zeros(cls, zeros, **options):
        return cls.from_bsr(BSR.of(zeros), **options)

    @classmethod
    def candidates(cls, zeros):
        if zeros.tile is not None and zeros.any():
            yield Candidate(cls.name, {})

    @classmethod
    def lacking(cls, device, dtype, **options):
        if device.type != "cpu":
            return None
        try:
            simd.machine()
        except ValueError as error:
            return str(error)
        return None

    def linear(self, x, bias=None):
        if not self.fast(x, bias):
            return super().linear(x, bias)
        y = self.prepared(self._panels, POINT)(x.reshape(1, 1, -1, x.shape[-1]), bias)
        return y.view(*x.shape[:-1], self.shape[0])

    def conv2d(self, x, bias, conv):
        if conv.pointwise or x.dim() != 4 or not self.fast(x, bias, dim=1):
            return super().conv2d(x, bias, conv)
        top, left = conv.padding
        x = F.pad(x.movedim(1, 3), (0, 0, left, left, top, top))
        return self.prepared(self._panels, conv._replace(padding=(0, 0)))(x, bias).movedim(3, 1)

    def runs(self, values):
        return values.dtype == torch.float32 and values.is_cpu

    def _panels(self, conv: Conv) -> "Panels":
        self._check(self.crow_indices, self.col_indices)  # the code trusts them, and they may have been written to
        return Panels(self, conv)


class Panels:
    """Block rows, cut into panels as wide as one piece of code computes.

    Attributes:
        values: (blocks of all panels, tile_c, width), panel after panel.
        starts: (panels + 1,) int64, where each begins.
        down, right, channel: (blocks,) int64, where in x each block reads.
    """

    def __init__(self, bsr: BSR, conv: Conv):
        rows, _, cols = bsr.grid
        tile_n, self.block = bsr.tile
        self.conv = conv
        self.shape = (bsr.shape[0], rows * tile_n)
        self.channels = cols * self.block
        machine = simd.machine()
        width = next(width for width in (2 * machine.lanes, machine.lanes, 8) if tile_n % width == 0)
        self.lanes = min(machine.lanes, width)
        parts = tile_n // width
        self.vectors = width // self.lanes
        self.rows = min(simd.MOST_ROWS, (machine.registers - 1 - self.vectors) // self.vectors)
        block_row = torch.arange(rows).repeat_interleave(bsr.crow_indices.diff())
        panel = (block_row[:, None] * parts + torch.arange(parts)).flatten()
        order = panel.argsort(stable=True)
        self.values = bsr.values.detach().unflatten(1, (parts, width)).flatten(0, 1)[order].transpose(1, 2).contiguous()
        self.starts = F.pad(panel.bincount(minlength=rows * parts).cumsum(0), (1, 0))
        col = bsr.col_indices.long().repeat_interleave(parts)[order]
        tap = col // cols
        self.channel = col % cols * self.block
        self.down = tap // conv.kernel[1] * conv.dilation[0]
        self.right = tap % conv.kernel[1] * conv.dilation[1]
        self.zeros = bsr.values.new_zeros(self.shape[1])
        self.steps = {}

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Map (B, H, W, C), padded, to (B, H', W', N)."""
        key = (x.shape, torch.get_num_threads())
        x = filled(x, self.channels).contiguous().resolve_neg()  # what lies in memory is what is read
        if key not in self.steps:
            if len(self.steps) == SIZES:
                self.steps.clear()
            self.steps[key] = self._steps(*key)
        size, steps = self.steps[key]
        y = x.new_empty(size)
        bias = self.zeros if bias is None else filled(bias, self.shape[1]).contiguous().resolve_neg()
        addresses = x.data_ptr(), bias.data_ptr(), y.data_ptr()
        for run, layout, _ in steps:
            run(Call(*addresses, layout))
        return y if y.shape[3] == self.shape[0] else y[..., : self.shape[0]].contiguous()

    def _steps(self, x: torch.Size, threads: int) -> tuple[tuple[int, ...], list]:
        """Return the size of y, and the calls: the function, its layout, and the tensors that it refers to."""
        B, H, W, C = *x[:3], self.channels
        size = B, *self.conv.output_size(H, W), self.shape[1]
        offsets = (self.down * W + self.right) * C + self.channel
        bounds = self.bounds(threads)
        steps = []
        for rows, tiles in _tiles((B, H, W, C), size, self.conv.stride, self.rows):
            spec = Spec(rows, self.vectors, self.lanes, self.block, self.conv.stride[1] * C)
            run = simd.compiled(spec, threads)
            for piece in tiles.split(CHUNK // rows):
                tensors = self.values, self.starts, offsets, piece, bounds
                layout = Layout(*(t.data_ptr() for t in tensors), size[3], len(piece), threads)
                steps.append((run, ctypes.addressof(layout), (layout, tensors)))
        return size, steps

    def bounds(self, parts: int) -> Tensor:
        """Cut the panels into ``parts`` with about the same number of blocks: (parts + 1,) int64."""
        work = self.starts + torch.arange(len(self.starts))  # a panel without blocks writes its outputs, too
        ends = torch.searchsorted(work, work[-1] * torch.arange(1, parts) // parts)
        return torch.cat([ends.new_zeros(1), ends, ends.new_full((1,), len(self.starts) - 1)])


def _tiles(x: tuple[int, ...], y: tuple[int, ...], stride: tuple[int, int], most: int) -> Iterator[tuple[int, Tensor]]:
    """Yield rows of outputs in equal runs: their length, and (runs, 2) where they begin in x and y."""
    _, H, W, C = x
    B, height, width, N = y
    count = -(-width // most) if width else 0
    line = (torch.arange(B)[:, None] * H + torch.arange(height) * stride[0]).flatten()
    short, longer = divmod(width, max(1, count))
    for rows, first, runs in ((short + 1, 0, longer), (short, longer * (short + 1), count - longer)):
        if runs:
            start = first + torch.arange(runs) * rows
            read = (line[:, None] * W + start * stride[1]) * C
            write = (torch.arange(len(line))[:, None] * width + start) * N
            yield rows, torch.stack([read.flatten(), write.flatten()], 1)
