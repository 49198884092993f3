"""masked_linear, prepared_linear and smart_linear: every dtype, tile and launch configuration against float64."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

from smart_kernels.ops import masked_linear, smart_linear
from smart_kernels.ops.masked import GroupedBlocks, GroupedLayer, prepared_linear

from ..case import Shape
from ..linear import expand
from .check import INTERPRETED, Check, Context, Setting, compare

TILES = ((64, 64), (128, 128), (32, 32), (16, 16), (24, 40), (1, 1), (1, 0), (8, 128))  # 0: the whole row
SHAPES = (Shape("even", 256, 512, 512, "no edges"), Shape("ragged", 77, 200, 312, "edges everywhere"))
SMALL_TILES = ((32, 32), (24, 40))
SMALL_SHAPES = (Shape("small", 19, 72, 96, "edges everywhere"),)
EPS = 1e-3
TEMPERATURE = 0.2


def cases(context: Context) -> Iterator[Check]:
    """Yield every operator for every shape, tile, dtype and launch configuration."""
    for shape in SMALL_SHAPES if context.small else SHAPES:
        for tile in SMALL_TILES if context.small else TILES:
            tile = (tile[0], tile[1] or shape.K)
            for setting in context.settings("block_matmul_kernel", "weight_grad_kernel"):
                label = f"{shape.name} tile {tile[0]}x{tile[1]} {setting}"
                for name, check in CHECKS.items():
                    run = partial(check, setting, shape, tile)
                    yield Check(f"{name} {label}", run, family=name, covers=f"{name} {setting}")


def inputs(setting: Setting, shape: Shape, tile: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    """Return x, weight, bias and uniform values per tile, some exactly 0."""
    x = setting.randn(shape.M, shape.K)
    weight = torch.randn(shape.N, shape.K, device=setting.device).div_(shape.K**0.5).to(setting.dtype)
    values = torch.rand(-(-shape.N // tile[0]), -(-shape.K // tile[1]), device=setting.device)
    return x, weight, setting.randn(shape.N), values * (torch.rand_like(values) < 0.5)


def masked(setting: Setting, shape: Shape, tile: tuple[int, int]) -> dict:
    """Check masked_linear and all its gradients."""

    def function(x, weight, bias, mask):
        return masked_linear(x, weight, mask, bias, tile=tile)

    def definition(x, weight, bias, mask):
        return F.linear(x, weight * expand(mask * (mask > 0), tile, shape), bias)

    return compare(function, definition, inputs(setting, shape, tile), setting.config)


def prepared(setting: Setting, shape: Shape, tile: tuple[int, int]) -> dict:
    """Check prepared_linear and all its gradients, for the second of two layers that are prepared together."""

    def function(x, weight, bias, mask):
        layers = [GroupedLayer((shape.N, shape.K), tile, first, EPS, weight.dtype) for first in (0, mask.numel())]
        group = GroupedBlocks(layers, x.device)
        masks = torch.cat([1 - mask.detach().flatten(), mask.detach().flatten()])
        indices = group.listed(masks)
        packed = group.packed([weight.detach()] * 2, masks, x.dtype, indices)
        return prepared_linear(x, weight, mask, bias, packed[1], indices[1], tile=tile, eps=EPS)

    def definition(x, weight, bias, mask):
        return F.linear(x, weight * expand(torch.where(mask > EPS, mask, 0.0), tile, shape), bias)

    if setting.device == "cpu" and not INTERPRETED:
        return {"ok": True, "skipped": "nothing is prepared on a CPU"}
    return compare(function, definition, inputs(setting, shape, tile), setting.config)


def smart(setting: Setting, shape: Shape, tile: tuple[int, int]) -> dict:
    """Check smart_linear and all its gradients."""
    threshold = torch.tensor(0.5, device=setting.device, dtype=torch.float64)

    def function(x, weight, bias, scores):
        return smart_linear(x, weight, scores, threshold, TEMPERATURE, bias, tile=tile, eps=EPS)

    def definition(x, weight, bias, scores):
        mask = torch.sigmoid((scores - threshold) / TEMPERATURE)
        return F.linear(x, weight * expand(torch.where(mask > EPS, mask, 0.0), tile, shape), bias)

    x, weight, bias, values = inputs(setting, shape, tile)
    return compare(function, definition, (x, weight, bias, torch.where(values > 0, values, -5.0)), setting.config)


CHECKS = {"masked_linear": masked, "prepared_linear": prepared, "smart_linear": smart}
