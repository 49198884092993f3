"""block_sparse_linear: every dtype, block and launch configuration against float64, empty rows included; decode."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

from smart_kernels.ops import block_sparse_linear

from ..block_sparse_linear import to_bsr, to_dense
from ..case import Shape
from ..linear import expand
from . import decode
from .check import Check, Context, compare
from .masked import SHAPES, SMALL_SHAPES

BLOCKS = ((64, 64), (128, 128), (32, 32), (16, 16), (24, 40), (128, 8), (1, 16))
SMALL_BLOCKS = ((32, 32), (24, 40))


def cases(context: Context) -> Iterator[Check]:
    for shape in SMALL_SHAPES if context.small else (*SHAPES, *decode.SHAPES):
        for block in SMALL_BLOCKS if context.small else BLOCKS:
            for name, dtype in context.dtypes.items():
                for config in context.configs:
                    label = f"block_sparse_linear {shape.name} {block[0]}x{block[1]} {name} config {config}"
                    yield Check(label, partial(run, context.device, shape, block, dtype, config))
    yield from decode.cases(context)


def run(device: str, shape: Shape, block: tuple[int, int], dtype: torch.dtype, config: int) -> dict:
    x = torch.randn(shape.M, shape.K, device=device, dtype=dtype)
    bias = torch.randn(shape.N, device=device, dtype=dtype)
    mask = (torch.rand(-(-shape.N // block[0]), -(-shape.K // block[1]), device=device) < 0.4).float()
    mask[0] = 0  # an empty block row
    weight = torch.randn(shape.N, shape.K, device=device).div_(shape.K**0.5).mul_(expand(mask, block, shape)).to(dtype)
    values, crow, col = to_bsr(weight, mask, block)

    def function(x, values, bias):
        return block_sparse_linear(x, values, crow, col, bias, out_features=shape.N)

    def definition(x, values, bias):
        return F.linear(x, to_dense(values, mask, block, shape), bias)

    return compare(function, definition, (x, values, bias), config)
