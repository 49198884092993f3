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
from .check import Check, Context, Setting, compare

PATTERNS = (NM(2, 4), NM(1, 4), NM(4, 8))
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
    """Yield every size, geometry and pattern, then the speed of layers of real networks."""
    for size, extent in (SMALL_SIZES if context.small else SIZES).items():
        for name, conv in GEOMETRIES.items():
            for pattern in PATTERNS:
                for setting in context.settings("semi_structured_conv_kernel"):
                    label = f"nm conv {pattern.n}:{pattern.m} {name} {size} {setting}"
                    check = partial(correct, setting, extent, conv, pattern)
                    yield Check(label, check, family="nm conv", covers=f"nm conv {setting}")
    for layer in (layer for layer in GPU_LAYERS if layer.conv.taps > 1):
        for batch in BATCHES[:1] if context.small else BATCHES:
            run = partial(time_layer, layer, batch, context)
            yield Check(f"speed nm conv {layer.name} batch {batch}", run, "speed", "nm conv")


def correct(setting: Setting, extent: tuple[int, int, int, int], conv: Conv, pattern: NM) -> dict:
    """Check the operator, its bias and all gradients."""
    images, C, size, N = extent
    layer = Layer("check", N, C, size, conv)
    weight = bench.pruned(layer, pattern, setting.device, setting.dtype)
    n, m = pattern.n, pattern.m
    stored = SemiStructured.from_dense(weight, (1, 1), taps=conv.taps, n=n, m=m)
    x = layer.images(images, setting.device, setting.dtype)

    def function(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return semi_structured_conv2d(x, values, stored.indices, bias, **conv.named, n=n, m=m)

    def definition(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, reference.kernel(values, stored.indices, n, m, C, conv), bias, *conv[1:])

    with torch.backends.cudnn.flags(allow_tf32=False):  # the gradients are cuDNN's
        return compare(function, definition, (x, stored.values.detach(), setting.randn(N)), setting.config)


def time_layer(layer: Layer, batch: int, context: Context) -> dict:
    """Time every form of a layer beside cuDNN."""
    torch.backends.cudnn.benchmark = True
    layer = layer.shrunk() if context.small else layer
    return speed.timed(bench.cases_of(layer, batch, context.device, speed.dtype(context), ("fwd", "step")), context)
