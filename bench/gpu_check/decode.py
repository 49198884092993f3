"""Decode, few rows of x, beside the time it takes to read the live bytes; and dense beside the time for all bytes."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F

from smart_kernels.convert.measure.timing import capture
from smart_kernels.ops import block_sparse_linear

from .. import linear, timing
from ..block_sparse_linear import to_bsr
from ..case import Case, Problem, Shape
from ..linear import expand, random_mask
from . import speed
from .check import Check, Context, relative_error

GOAL = 0.85  # of the floor
ROWS = (1, 4, 16)
SPARSITIES = (0.8, 0.9)
BLOCKS = ((64, 64), (128, 128), (32, 32), (16, 16), (128, 8))
LAYERS = ((14336, 4096), (4096, 14336), (1024, 8192))  # the last has too few rows of tiles: they are shared
SHAPES = (Shape("decode-ragged", 3, 200, 1000, "edges"), Shape("decode-split", 16, 128, 2048, "shared rows of tiles"))
TRAFFIC = 2**28  # bytes read in turn: several times the L2 cache, where one layer alone would stay
TOLERANCE = 2e-2


def cases(context: Context) -> Iterator[Check]:
    """Yield every layer, block, sparsity and number of rows."""
    for N, K in ((96, 128),) if context.small else LAYERS:
        for block in BLOCKS[2:4] if context.small else BLOCKS:
            for sparsity in SPARSITIES[:1] if context.small else SPARSITIES:
                for M in ROWS:
                    shape = Shape(f"{N}x{K}/{M}", M, N, K, "")
                    label = f"decode {shape.name} {block[0]}x{block[1]} {sparsity:.2f}"
                    yield Check(label, partial(time_layer, context, shape, block, sparsity), "speed", "decode")


def time_layer(context: Context, shape: Shape, block: tuple[int, int], sparsity: float) -> dict:
    """Time a layer inside one CUDA graph over layers that do not fit into L2 together."""
    device = context.device
    dtype = torch.float32 if context.dry else torch.bfloat16
    x = torch.randn(shape.M, shape.K, device=device, dtype=dtype)
    mask = random_mask(shape, block, sparsity, device)
    weight = torch.randn(shape.N, shape.K, device=device, dtype=dtype).div_(shape.K**0.5)
    weight *= expand(mask, block, shape).to(dtype)
    values, crow, col = to_bsr(weight, mask, block)

    def ours(values):
        return block_sparse_linear(x, values, crow, col, out_features=shape.N)

    error = relative_error(ours(values), F.linear(x.double(), weight.double()))
    result = {"ok": error <= TOLERANCE, "error": error}
    if context.dry:
        return result | {"skipped": "dry run"}
    problem = Problem("decode", shape, f"{block[0]}x{block[1]}", sparsity, dtype, "fwd")
    pairs = [
        timed(problem, "dense", lambda weight: F.linear(x, weight), weight, 1.0),
        timed(problem, "block_sparse_linear", ours, values, mask.mean().item()),
    ]
    return result | {"goal": GOAL, **speed.rows_of([pairs], dtype, context)}


def timed(
    problem: Problem, name: str, function: Callable, stored: torch.Tensor, density: float
) -> tuple[Case, timing.Timing]:
    """Return the case of a function of a stored weight, and its time."""
    needs = linear.needs("fwd", problem.shape, density, problem.dtype.itemsize)
    case = Case(problem, name, name == "dense", tuple, tuple, *needs)
    return case, timing.summarise([seconds(function, stored)], "graph")


def seconds(function: Callable, weight: torch.Tensor) -> float:
    """Return the time of one call, with another copy of the weight each time."""
    copies = [weight.clone() for _ in range(max(2, TRAFFIC // nbytes(weight)))]
    with torch.no_grad():
        function(weight)  # tunes, which cannot be captured
        replay = capture(lambda: [function(each) for each in copies])
        return timing.on_gpu(replay).p50_ms / 1e3 / len(copies)


def nbytes(*tensors: torch.Tensor) -> int:
    """Return how many bytes the tensors have."""
    return sum(t.numel() * t.element_size() for t in tensors)
