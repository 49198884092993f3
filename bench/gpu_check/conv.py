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
from .check import Check, Context, Setting, compare

TILES = ((64, 64), (128, 64), (128, 128), (32, 32), (24, 40))
GEOMETRIES = {
    "3x3": Conv((3, 3), (1, 1), (1, 1)),
    "3x3 interior": Conv((3, 3)),
    "3x3 stride 2": Conv((3, 3), (2, 2), (1, 1)),
    "3x2 dilated": Conv((3, 2), (2, 1), (1, 0), (1, 2)),
    "7x7": Conv((7, 7), (2, 2), (3, 3)),
}
BATCHES = (64, 8, 1)


def cases(context: Context) -> Iterator[Check]:
    """Yield the correctness of both operators, then their speed on layers of real networks."""
    for name, conv in GEOMETRIES.items():
        for tile in TILES[3:] if context.small else TILES:
            for setting in context.settings("conv_matmul_kernel", "conv_grad_kernel"):
                label = f"{name} {tile[0]}x{tile[1]} {setting}"
                for op, check in (("block_sparse_conv2d", correct), ("masked_conv2d", masked)):
                    run = partial(check, setting, conv, tile)
                    yield Check(f"{op} {label}", run, family=op, covers=f"{op} {setting}")
    for batch in BATCHES[:1] if context.small else BATCHES:
        for layer in GPU_LAYERS:
            run = partial(time_layer, layer, batch, context)
            yield Check(f"speed conv {layer.name} batch {batch}", run, "speed", "conv2d")


def correct(setting: Setting, conv: Conv, tile: tuple[int, int]) -> dict:
    """Check block_sparse_conv2d, its bias and all gradients."""
    batch, layer = sized(setting, conv)
    weight = random_weight(layer, tile, 0.6, "one", setting.device).to(setting.dtype)
    bsr = BSR.from_dense(weight, tile, taps=conv.taps)
    x = layer.images(batch, setting.device, setting.dtype)
    bias = setting.randn(layer.N)
    indices = (bsr.crow_indices, bsr.col_indices)
    index = conv_index(*indices, tile, (layer.N, layer.C), **conv.named)

    def function(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return block_sparse_conv2d(x, values, *indices, bias, **conv.named, out_channels=layer.N, index=index)

    def definition(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, to_kernel(values, bsr, conv), bias, *conv[1:])

    return compare(function, definition, (x, bsr.values.detach(), bias), setting.config)


def masked(setting: Setting, conv: Conv, tile: tuple[int, int]) -> dict:
    """Check masked_conv2d, its bias and all gradients, with half of the tiles dead."""
    batch, layer = sized(setting, conv)
    pattern = Block(*tile)
    shape = WeightShape(layer.N, conv.taps, layer.C)
    x = layer.images(batch, setting.device, setting.dtype)
    weight = torch.randn(layer.N, layer.C, *conv.kernel, device=setting.device)
    weight = weight.div_((conv.taps * layer.C) ** 0.5).to(setting.dtype)
    mask = torch.rand(pattern.scores_shape(shape), device=setting.device)
    mask = mask * (mask.flatten().argsort().argsort().view_as(mask) % 2)

    def function(x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        geometry = dict(zip(("stride", "padding", "dilation"), conv[1:], strict=True))
        return masked_conv2d(x, weight, mask, bias, tile=tile, **geometry)

    def definition(x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        full = pattern.expand(mask * (mask > 0), shape).transpose(1, 2).reshape(weight.shape)
        return F.conv2d(x, weight * full, bias, *conv[1:])

    return compare(function, definition, (x, weight, setting.randn(layer.N), mask), setting.config)


def sized(setting: Setting, conv: Conv) -> tuple[int, Layer]:
    """Return how many images, and a layer with edges everywhere."""
    return (1, Layer("check", 48, 40, 7, conv)) if setting.small else (4, Layer("check", 200, 136, 19, conv))


def time_layer(layer: Layer, batch: int, context: Context) -> dict:
    """Time every form of a layer beside cuDNN."""
    torch.backends.cudnn.benchmark = True
    layer = layer.shrunk() if context.small else layer
    return speed.timed(cases_of(layer, batch, context.device, speed.dtype(context), ("fwd", "step")), context)
