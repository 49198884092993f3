"""Convolutions: the block-sparse forms of a pruned layer beside the best dense one. Blocks span all taps or one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.formats import BSR, ELL, JIT, Conv, Packed
from smart_kernels.ops import block_sparse_conv2d
from smart_kernels.ops.block_sparse import conv_index

from .case import Case, Shape
from .case import shapes as device_shapes
from .layers import build
from .linear import Provider, exact_of, runner

SPARSITIES = (0.5, 0.8, 0.9, 0.95)
TILES = ((32, 32), (64, 64))
BATCH = 8


@dataclass(frozen=True)
class Layer:
    """A square convolution: N output and C input channels, size x size pixels."""

    name: str
    N: int
    C: int
    size: int
    conv: Conv

    def shrunk(self) -> "Layer":
        """The same form, small enough to rehearse with."""
        return replace(self, N=80, C=64, size=6)


POINT, SAME, HALF = Conv((1, 1)), Conv((3, 3), (1, 1), (1, 1)), Conv((3, 3), (2, 2), (1, 1))
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
    """Convolutions have layers of their own, which shrink where ``shapes`` are not those of the device."""
    small = tuple(shapes) != device_shapes(device)
    for layer in GPU_LAYERS if device == "cuda" else CPU_LAYERS:
        yield from cases_of(layer.shrunk() if small else layer, 1 if small else BATCH, device, dtype, ("fwd",))


def cases_of(layer: Layer, batch: int, device: str, dtype: torch.dtype, passes: Sequence[str]) -> Iterator[Case]:
    """Every tile, sparsity and form of one layer."""
    x = torch.randn(batch, layer.C, layer.size, layer.size, device=device, dtype=dtype)
    x = x.to(memory_format=torch.channels_last)
    for tile in TILES:
        for taps in ("all", "one") if layer.conv.taps > 1 else ("all",):
            for sparsity in SPARSITIES:
                weight = random_weight(layer, tile, sparsity, taps, device).to(dtype)
                block = f"{tile[0]}x{tile[1]}" + (f":{taps}" if layer.conv.taps > 1 else "")
                for pass_ in passes:
                    for provider in providers(layer, weight, x, tile):
                        if pass_ in provider.passes:
                            yield case_of("conv2d", layer, provider, block, sparsity, pass_)


def case_of(op: str, layer: Layer, p: Provider, block: str, sparsity: float, pass_: str) -> Case:
    """One provider and pass of a layer."""
    x = p.inputs[0]
    P, Q = layer.conv.output_size(layer.size, layer.size)
    shape = Shape(
        f"{layer.name}/{len(x)}", len(x) * P * Q, layer.N, layer.conv.taps * layer.C, "one layer of a network"
    )
    dy = torch.randn(len(x), layer.N, P, Q, device=x.device, dtype=x.dtype).to(memory_format=torch.channels_last)
    flops = 2.0 * shape.M * shape.N * shape.K * p.density * (1 if pass_ == "fwd" else 3)
    touched = x.numel() + dy.numel() + layer.N * shape.K * p.density
    traffic = x.element_size() * touched * (1 if pass_ == "fwd" else 3)
    run, exact = runner(pass_, p.function, p.inputs, dy), exact_of(pass_, p, dy)
    return Case(op, p.name, p.baseline, shape, block, sparsity, x.dtype, pass_, run, exact, flops, traffic)


def providers(layer: Layer, weight: Tensor, x: Tensor, tile: tuple[int, int]) -> list[Provider]:
    """Dense in either memory format (packed too on a CPU), then the sparse forms of the device."""
    conv, density = layer.conv, (weight != 0).double().mean().item()
    kernel = weight.unflatten(1, (*conv.kernel, -1)).permute(0, 3, 1, 2)
    last, first = kernel.contiguous(memory_format=torch.channels_last), kernel.contiguous()

    def dense(x: Tensor, kernel: Tensor) -> Tensor:
        return F.conv2d(x, kernel, None, *conv[1:])

    both, bsr = ("fwd", "step"), BSR.from_dense(weight, tile, taps=conv.taps)
    found = [
        Provider("dense", dense, (x, last), dense, passes=both, baseline=True),
        Provider("dense-nchw", dense, (x.contiguous(), first), dense, passes=both, baseline=True),
    ]
    if x.device.type == "cuda":
        indices = bsr.crow_indices, bsr.col_indices
        index = conv_index(*indices, tile, (layer.N, layer.C), **conv.named)  # kept until the mask changes, as by BSR

        def ours(x: Tensor, values: Tensor) -> Tensor:
            return block_sparse_conv2d(x, values, *indices, **conv.named, out_channels=layer.N, index=index)

        def definition(x: Tensor, values: Tensor) -> Tensor:
            return dense(x, to_kernel(values, bsr, conv))

        return [*found, Provider("bsr", ours, (x, bsr.values.detach()), definition, density, both)]
    ells = [(f"ell-{buckets}", ELL, {"engine": "onednn", "buckets": buckets}) for buckets in (1, 2, 4, 8)]
    variants = [("dense-packed", Packed, {}), *ells, ("jit", JIT, {})]
    for name, cls, options in variants:
        format = build(cls, weight, tile, {"taps": conv.taps, **options})
        if format is None:
            continue
        packed = name == "dense-packed"
        found.append(
            Provider(
                name,
                lambda x, format=format: format.conv2d(x, None, conv),
                (x,),
                lambda x: dense(x, kernel.double()),
                1.0 if packed else density,
                baseline=packed,
            )
        )
    return found


def random_weight(layer: Layer, tile: tuple[int, int], sparsity: float, taps: str, device: str) -> Tensor:
    """(N, taps * C), each block row with as many live blocks as any other."""
    rows, cols = -(-layer.N // tile[0]), -(-layer.C // tile[1])
    scored = 1 if taps == "all" else layer.conv.taps
    keep = max(1, round(scored * cols * (1 - sparsity)))
    order = torch.rand(rows, scored * cols, device=device).argsort(1)[:, :keep]
    mask = torch.zeros(rows, scored * cols, device=device).scatter_(1, order, 1.0).view(rows, scored, cols)
    mask = mask.expand(rows, layer.conv.taps, cols).repeat_interleave(tile[0], 0).repeat_interleave(tile[1], 2)
    weight = torch.randn(layer.N, layer.conv.taps, layer.C, device=device) / (layer.conv.taps * layer.C) ** 0.5
    return (weight * mask[: layer.N, :, : layer.C]).flatten(1)


def to_kernel(values: Tensor, bsr: BSR, conv: Conv) -> Tensor:
    """The (N, C, kh, kw) weight that the blocks make up; written apart from the package, as part of its oracle."""
    (rows, taps, cols), (tile_n, tile_c) = bsr.grid, bsr.tile
    row = torch.arange(rows, device=values.device).repeat_interleave(bsr.crow_indices.diff().long())
    blocks = values.new_zeros(rows * taps * cols, tile_n, tile_c).index_copy(
        0, row * taps * cols + bsr.col_indices, values
    )
    full = blocks.view(rows, *conv.kernel, cols, tile_n, tile_c).permute(0, 4, 3, 5, 1, 2)
    return full.flatten(2, 3).flatten(0, 1)[: bsr.shape[0], : bsr.shape[1] // taps]
