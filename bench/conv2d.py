"""Convolutions: the block-sparse forms of a pruned layer beside the best dense one. Blocks span all taps or one."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.formats import BSR, ELL, JIT, Conv, Format, Packed
from smart_kernels.ops import block_sparse_conv2d
from smart_kernels.ops.block_sparse import conv_index

from .case import Case, Problem, Shape
from .case import shapes as device_shapes
from .layers import build
from .linear import Provider

SPARSITIES = (0.5, 0.8, 0.9, 0.95)
TILES = ((32, 32), (64, 64))
BATCH = 8
TRAINS = ("fwd", "step")  # the passes of what trains


@dataclass(frozen=True)
class Layer:
    """A square convolution: N output and C input channels, size x size pixels."""

    name: str
    N: int
    C: int
    size: int
    conv: Conv

    def shrunk(self) -> "Layer":
        """Return the same form, small enough to rehearse with."""
        return replace(self, N=80, C=64, size=6)

    def images(self, batch: int, device: str, dtype: torch.dtype) -> Tensor:
        """Return a random input (batch, C, size, size) in channels_last."""
        x = torch.randn(batch, self.C, self.size, self.size, device=device, dtype=dtype)
        return x.to(memory_format=torch.channels_last)

    def shape(self, batch: int) -> Shape:
        """Return the matrix product that the convolution amounts to."""
        rows = batch * math.prod(self.conv.output_size(self.size, self.size))
        return Shape(f"{self.name}/{batch}", rows, self.N, self.conv.taps * self.C, "one layer of a network")

    def dense(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Convolve with a kernel (N, C, kh, kw)."""
        return F.conv2d(x, kernel, None, *self.conv[1:])

    def cases(self, problem: Problem, providers: Sequence[Provider]) -> Iterator[Case]:
        """Yield the case of every provider that offers the pass."""
        for p in providers:
            if problem.pass_ in p.passes:
                x = p.inputs[0]
                size = (len(x), self.N, *self.conv.output_size(self.size, self.size))
                dy = torch.randn(size, device=x.device, dtype=x.dtype).to(memory_format=torch.channels_last)
                yield p.case(problem, dy, *self.needs(problem, p.density))

    def needs(self, p: Problem, density: float) -> tuple[float, float]:
        """Return FLOPs and bytes: a training step computes y, dx and dweight."""
        passes = 1 if p.pass_ == "fwd" else 3
        M = p.shape.M
        N = p.shape.N
        K = p.shape.K
        pixels_in = M // math.prod(self.conv.output_size(self.size, self.size)) * self.size**2
        touched = pixels_in * self.C + M * N + N * K * density
        return passes * 2.0 * M * N * K * density, passes * p.dtype.itemsize * touched


POINT = Conv((1, 1))
SAME = Conv((3, 3), (1, 1), (1, 1))
HALF = Conv((3, 3), (2, 2), (1, 1))
CPU_LAYERS = (
    Layer("conv-1x1-256-1024/14", 1024, 256, 14, POINT),
    Layer("conv-3x3-256/14", 256, 256, 14, SAME),
    Layer("conv-3x3-64/56", 64, 64, 56, SAME),
)
GPU_LAYERS = (
    *(Layer(f"resnet-3x3-{c}/{size}", c, c, size, SAME) for c, size in ((64, 56), (128, 28), (256, 14), (512, 7))),
    Layer("resnet-3x3-256-s2/28", 256, 256, 28, HALF),
    Layer("resnet-1x1-256-1024/14", 1024, 256, 14, POINT),
    *(Layer(f"yolo-3x3-{c}/{size}", c, c, size, SAME) for c, size in ((128, 80), (256, 40), (512, 20))),
    Layer("yolo-3x3-256-512-s2/40", 512, 256, 40, HALF),
)


def cases(device: str, dtype: torch.dtype, shapes: Sequence[Shape]) -> Iterator[Case]:
    """Yield layers of their own, which shrink where ``shapes`` are not those of the device."""
    small = tuple(shapes) != device_shapes(device)
    for layer in GPU_LAYERS if device == "cuda" else CPU_LAYERS:
        yield from cases_of(layer.shrunk() if small else layer, 1 if small else BATCH, device, dtype, ("fwd",))


def cases_of(layer: Layer, batch: int, device: str, dtype: torch.dtype, passes: Sequence[str]) -> Iterator[Case]:
    """Yield every tile, sparsity and form of one layer."""
    x = layer.images(batch, device, dtype)
    for tile in TILES:
        for taps in ("all", "one") if layer.conv.taps > 1 else ("all",):
            for sparsity in SPARSITIES:
                weight = random_weight(layer, tile, sparsity, taps, device).to(dtype)
                block = f"{tile[0]}x{tile[1]}" + (f":{taps}" if layer.conv.taps > 1 else "")
                for pass_ in passes:
                    problem = Problem("conv2d", layer.shape(batch), block, sparsity, dtype, pass_)
                    yield from layer.cases(problem, providers(layer, weight, x, tile))


def providers(layer: Layer, weight: Tensor, x: Tensor, tile: tuple[int, int]) -> list[Provider]:
    """Return dense in either memory format (packed too on a CPU), then the sparse forms of the device."""
    kernel = weight.unflatten(1, (*layer.conv.kernel, -1)).permute(0, 3, 1, 2)
    last = kernel.contiguous(memory_format=torch.channels_last)
    dense = layer.dense
    found = [
        Provider("dense", dense, (x, last), dense, passes=TRAINS, baseline=True),
        Provider("dense-nchw", dense, (x.contiguous(), kernel.contiguous()), dense, passes=TRAINS, baseline=True),
    ]
    if x.device.type == "cuda":
        return [*found, _on_gpu(layer, weight, x, tile)]
    return [*found, *_on_cpu(layer, weight, x, tile)]


def _on_gpu(layer: Layer, weight: Tensor, x: Tensor, tile: tuple[int, int]) -> Provider:
    """Return the kernel on stored blocks."""
    conv = layer.conv
    bsr = BSR.from_dense(weight, tile, taps=conv.taps)
    indices = (bsr.crow_indices, bsr.col_indices)
    index = conv_index(*indices, tile, (layer.N, layer.C), **conv.named)  # lasts until the mask changes, as in BSR

    def ours(x: Tensor, values: Tensor) -> Tensor:
        return block_sparse_conv2d(x, values, *indices, **conv.named, out_channels=layer.N, index=index)

    def definition(x: Tensor, values: Tensor) -> Tensor:
        return layer.dense(x, to_kernel(values, bsr, conv))

    return Provider("bsr", ours, (x, bsr.values.detach()), definition, density(weight), TRAINS, tile=tile)


def _on_cpu(layer: Layer, weight: Tensor, x: Tensor, tile: tuple[int, int]) -> Iterator[Provider]:
    """Yield the packed dense form, which is a baseline, and the sparse forms that hold the weight."""
    conv = layer.conv
    kernel = weight.unflatten(1, (*conv.kernel, -1)).permute(0, 3, 1, 2)
    taps = {"taps": conv.taps}
    formats: dict[str, Format | None] = {"dense-packed": build(Packed, weight, tile, taps)}
    for buckets in (1, 2, 4, 8):
        formats[f"ell-{buckets}"] = build(ELL, weight, tile, {**taps, "engine": "onednn", "buckets": buckets})
    formats["jit"] = build(JIT, weight, tile, taps)
    for name, format in formats.items():
        if format is not None:
            packed = name == "dense-packed"
            run = partial(format.conv2d, bias=None, conv=conv)
            share = 1.0 if packed else density(weight)
            yield Provider(name, run, (x,), lambda x: layer.dense(x, kernel.double()), share, baseline=packed)


def density(weight: Tensor) -> float:
    """Return the fraction of weights that are not 0."""
    return (weight != 0).double().mean().item()


def random_weight(layer: Layer, tile: tuple[int, int], sparsity: float, taps: str, device: str) -> Tensor:
    """Return a weight (N, taps * C), each block row with as many live blocks as any other."""
    scored = 1 if taps == "all" else layer.conv.taps
    mask = tap_mask(layer.N, scored, layer.C, tile, sparsity, device)
    weight = torch.randn(layer.N, layer.conv.taps, layer.C, device=device) / (layer.conv.taps * layer.C) ** 0.5
    return (weight * mask).flatten(1)


def tap_mask(N: int, taps: int, C: int, tile: tuple[int, int], sparsity: float, device: str = "cpu") -> Tensor:
    """Return a random 0/1 mask (N, taps, C) of tiles at single taps, as many live in each block row, at least 1."""
    rows = -(-N // tile[0])
    cols = -(-C // tile[1])
    keep = max(1, round(taps * cols * (1 - sparsity)))
    order = torch.rand(rows, taps * cols, device=device).argsort(1)[:, :keep]
    mask = torch.zeros(rows, taps * cols, device=device).scatter_(1, order, 1.0).view(rows, taps, cols)
    return mask.repeat_interleave(tile[0], 0).repeat_interleave(tile[1], 2)[:N, :, :C]


def to_kernel(values: Tensor, bsr: BSR, conv: Conv) -> Tensor:
    """Return the (N, C, kh, kw) weight that the blocks make up; written apart from the package, for its oracle."""
    rows, taps, cols = bsr.grid
    tile_n, tile_c = bsr.tile
    row = torch.arange(rows, device=values.device).repeat_interleave(bsr.crow_indices.diff().long())
    blocks = values.new_zeros(rows * taps * cols, tile_n, tile_c).index_copy(
        0, row * taps * cols + bsr.col_indices, values
    )
    full = blocks.view(rows, *conv.kernel, cols, tile_n, tile_c).permute(0, 4, 3, 5, 1, 2)
    return full.flatten(2, 3).flatten(0, 1)[: bsr.shape[0], : bsr.shape[1] // taps]
