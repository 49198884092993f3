"""block_sparse_conv2d and masked_conv2d: every geometry and launch configuration against float64, then layers of real
networks beside cuDNN in channels_last with its benchmark mode on."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.formats import BSR, Conv
from smart_kernels.ops import block_sparse_conv2d, masked_conv2d
from smart_kernels.ops.block_sparse import conv_index
from smart_kernels.patterns import Block, WeightShape

from ..conv2d import GPU_LAYERS, Layer, cases_of, random_weight, to_kernel
from . import speed
from .check import Check, Context, compare

TILES = ((64, 64), (128, 64), (128, 128), (32, 32), (24, 40))
GEOMETRIES = {
    "3x3": Conv((3, 3), (1, 1), (1, 1)),
    "3x3 interior": Conv((3, 3)),
    "3x3 stride 2": Conv((3, 3), (2, 2), (1, 1)),
    "3x2 dilated": Conv((3, 2), (2, 1), (1, 0), (1, 2)),
    "7x7": Conv((7, 7), (2, 2), (3, 3)),
}
BATCHES = (1, 8, 64)


def cases(context: Context) -> Iterator[Check]:
    for name, conv in GEOMETRIES.items():
        for tile in TILES[3:] if context.small else TILES:
            for dtype_name, dtype in context.dtypes.items():
                for config in context.configs:
                    label = f"{name} {tile[0]}x{tile[1]} {dtype_name} config {config}"
                    args = context, conv, tile, dtype, config
                    yield Check(f"block_sparse_conv2d {label}", partial(correct, *args))
                    yield Check(f"masked_conv2d {label}", partial(masked, *args))
    for layer in GPU_LAYERS:
        for batch in BATCHES[:1] if context.small else BATCHES:
            yield Check(f"speed conv {layer.name} batch {batch}", partial(measure, layer, batch, context))


def correct(context: Context, conv: Conv, tile: tuple[int, int], dtype: torch.dtype, config: int) -> dict:
    B, C, size, N = (1, 40, 7, 48) if context.small else (4, 136, 19, 200)
    layer = Layer("check", N, C, size, conv)
    weight = random_weight(layer, tile, 0.6, "one", context.device).to(dtype)
    bsr = BSR.from_dense(weight, tile, taps=conv.taps)
    x = torch.randn(B, C, size, size, device=context.device, dtype=dtype).to(memory_format=torch.channels_last)
    bias, indices = torch.randn(N, device=context.device, dtype=dtype), (bsr.crow_indices, bsr.col_indices)
    index = conv_index(*indices, tile, (N, C), **conv.named)

    def function(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return block_sparse_conv2d(x, values, *indices, bias, **conv.named, out_channels=N, index=index)

    def definition(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, to_kernel(values, bsr, conv), bias, *conv[1:])

    return compare(function, definition, (x, bsr.values.detach(), bias), config)


def masked(context: Context, conv: Conv, tile: tuple[int, int], dtype: torch.dtype, config: int) -> dict:
    B, C, size, N = (1, 40, 7, 48) if context.small else (4, 136, 19, 200)
    pattern, shape = Block(*tile), WeightShape(N, conv.taps, C)
    x = torch.randn(B, C, size, size, device=context.device, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(N, C, *conv.kernel, device=context.device).div_((conv.taps * C) ** 0.5).to(dtype)
    bias = torch.randn(N, device=context.device, dtype=dtype)
    mask = torch.rand(pattern.scores_shape(shape), device=context.device)
    mask = mask * (mask.flatten().argsort().argsort().view_as(mask) % 2)  # half of them dead

    def function(x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        geometry = dict(zip(("stride", "padding", "dilation"), conv[1:], strict=True))
        return masked_conv2d(x, weight, mask, bias, tile=tile, **geometry)

    def definition(x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        full = pattern.expand(mask * (mask > 0), shape).transpose(1, 2).reshape(weight.shape)
        return F.conv2d(x, weight * full, bias, *conv[1:])

    return compare(function, definition, (x, weight, bias, mask), config)


def measure(layer: Layer, batch: int, context: Context) -> dict:
    torch.backends.cudnn.benchmark = True
    layer = layer.shrunk() if context.small else layer
    return speed.timed(cases_of(layer, batch, context.device, speed.dtype(context), ("fwd", "step")), context)
