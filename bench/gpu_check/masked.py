"""masked_linear and smart_linear: every dtype, tile and launch configuration against float64."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

from smart_kernels.ops import masked_linear, smart_linear

from ..case import Shape
from ..linear import expand
from .check import Check, Context, compare

TILES = ((64, 64), (128, 128), (32, 32), (16, 16), (24, 40), (1, 1), (1, 0), (8, 128))  # 0: the whole row
SHAPES = (Shape("even", 256, 512, 512, "no edges"), Shape("ragged", 77, 200, 312, "edges everywhere"))
SMALL_TILES, SMALL_SHAPES = ((32, 32), (24, 40)), (Shape("small", 19, 72, 96, "edges everywhere"),)
EPS, TEMPERATURE = 1e-3, 0.2


def cases(context: Context) -> Iterator[Check]:
    for shape in SMALL_SHAPES if context.small else SHAPES:
        for tile in SMALL_TILES if context.small else TILES:
            tile = (tile[0], tile[1] or shape.K)
            for name, dtype in context.dtypes.items():
                for config in context.configs:
                    label = f"{shape.name} tile {tile[0]}x{tile[1]} {name} config {config}"
                    yield Check(f"masked_linear {label}", partial(masked, context.device, shape, tile, dtype, config))
                    yield Check(f"smart_linear {label}", partial(smart, context.device, shape, tile, dtype, config))


def inputs(device: str, shape: Shape, tile: tuple[int, int], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """x, weight, bias and uniform values per tile, some exactly 0."""
    x = torch.randn(shape.M, shape.K, device=device, dtype=dtype)
    weight = torch.randn(shape.N, shape.K, device=device).div_(shape.K**0.5).to(dtype)
    bias = torch.randn(shape.N, device=device, dtype=dtype)
    values = torch.rand(-(-shape.N // tile[0]), -(-shape.K // tile[1]), device=device)
    return x, weight, bias, values * (torch.rand_like(values) < 0.5)


def masked(device: str, shape: Shape, tile: tuple[int, int], dtype: torch.dtype, config: int) -> dict:
    def function(x, weight, bias, mask):
        return masked_linear(x, weight, mask, bias, tile=tile)

    def definition(x, weight, bias, mask):
        return F.linear(x, weight * expand(mask * (mask > 0), tile, shape), bias)

    return compare(function, definition, inputs(device, shape, tile, dtype), config)


def smart(device: str, shape: Shape, tile: tuple[int, int], dtype: torch.dtype, config: int) -> dict:
    threshold = torch.tensor(0.5, device=device, dtype=torch.float64)

    def function(x, weight, bias, scores):
        return smart_linear(x, weight, scores, threshold, TEMPERATURE, bias, tile=tile, eps=EPS)

    def definition(x, weight, bias, scores):
        mask = torch.sigmoid((scores - threshold) / TEMPERATURE)
        return F.linear(x, weight * expand(torch.where(mask > EPS, mask, 0.0), tile, shape), bias)

    x, weight, bias, values = inputs(device, shape, tile, dtype)
    return compare(function, definition, (x, weight, bias, torch.where(values > 0, values, -5.0)), config)
