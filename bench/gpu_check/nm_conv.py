"""semi_structured_conv2d: every geometry and launch configuration against float64, then layers of real networks beside
cuDNN in channels_last with its benchmark mode on."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.formats import Conv, SemiStructured
from smart_kernels.ops import semi_structured_conv2d
from smart_kernels.patterns import NM
from smart_kernels.reference import semi_structured as reference

from .. import semi_structured_conv2d as bench
from ..conv2d import GPU_LAYERS, Layer
from . import speed
from .check import Check, Context, compare

KEPT = ((2, 4), (1, 4), (4, 8))
GEOMETRIES = {
    "3x3": Conv((3, 3), (1, 1), (1, 1)),
    "3x3 interior stride 2": Conv((3, 3), (2, 2)),
    "3x2 dilated": Conv((3, 2), (2, 1), (1, 0), (1, 2)),
    "7x7": Conv((7, 7), (2, 2), (3, 3)),
}
SIZES = {"even": (4, 128, 19, 192), "ragged": (3, 135, 17, 200)}  # images, C, size, N
SMALL_SIZES = {"ragged": (1, 38, 7, 44)}
BATCHES = (1, 8, 64)


def cases(context: Context) -> Iterator[Check]:
    for size, extent in (SMALL_SIZES if context.small else SIZES).items():
        for name, conv in GEOMETRIES.items():
            for n, m in KEPT:
                for dtype_name, dtype in context.dtypes.items():
                    for config in context.configs:
                        label = f"nm conv {n}:{m} {name} {size} {dtype_name} config {config}"
                        yield Check(label, partial(correct, context, extent, conv, (n, m), dtype, config))
    for layer in (layer for layer in GPU_LAYERS if layer.conv.taps > 1):
        for batch in BATCHES[:1] if context.small else BATCHES:
            yield Check(f"speed nm conv {layer.name} batch {batch}", partial(measure, layer, batch, context))


def correct(
    context: Context, extent: tuple, conv: Conv, kept: tuple[int, int], dtype: torch.dtype, config: int
) -> dict:
    (B, C, size, N), device = extent, context.device
    layer = Layer("check", N, C, size, conv)
    weight = bench.pruned(layer, NM(*kept), device, dtype)
    stored = SemiStructured.from_dense(weight, (1, 1), taps=conv.taps, n=kept[0], m=kept[1])
    x = torch.randn(B, C, size, size, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    bias, indices = torch.randn(N, device=device, dtype=dtype), stored.indices

    def function(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return semi_structured_conv2d(x, values, indices, bias, **conv.named, n=kept[0], m=kept[1])

    def definition(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, reference.kernel(values, indices, *kept, C, conv), bias, *conv[1:])

    with torch.backends.cudnn.flags(allow_tf32=False):  # the gradients are cuDNN's
        return compare(function, definition, (x, stored.values.detach(), bias), config)


def measure(layer: Layer, batch: int, context: Context) -> dict:
    torch.backends.cudnn.benchmark = True
    layer = layer.shrunk() if context.small else layer
    return speed.timed(bench.cases_of(layer, batch, context.device, speed.dtype(context), ("fwd", "step")), context)
