"""The cost of a call on the host, without waiting for the GPU: it alone decides where nobody replays a graph."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F

from smart_kernels import NM, Block, SparseConv2d, SparseLinear
from smart_kernels.ops import masked_linear, smart_linear, soft_topk

from .. import run, semi_structured_linear
from ..case import Case, Problem, Shape
from ..linear import runner
from . import speed
from .check import INTERPRETED, Check, Context

TILE = (64, 64)
LAYER = Shape("1024x1024/512", 512, 1024, 1024, "a small layer")
FEW = Shape("1024x1024/4", 4, 1024, 1024, "the same, decoding")
CONV = Shape("3x3-64/28/8", 8 * 28 * 28, 64, 576, "a small convolution")
SCORES = Shape("100000", 1, 100000, 0, "the scores of a small model")


@dataclass(frozen=True)
class Call:
    """A function with its inputs, and what it is a row of."""

    op: str
    shape: Shape
    block: str
    sparsity: float
    provider: str
    function: object
    inputs: tuple[torch.Tensor, ...]
    passes: tuple[str, ...] = ("fwd", "step")

    def case(self, pass_: str) -> Case:
        """Return the case of a pass."""
        with torch.no_grad():
            dy = torch.randn_like(self.function(*self.inputs))
        problem = Problem(self.op, self.shape, self.block, self.sparsity, self.inputs[0].dtype, pass_)
        call = runner(pass_, self.function, self.inputs, dy)
        return Case(problem, self.provider, self.provider == "dense", call, tuple, 0.0, 0.0)


def cases(context: Context) -> Iterator[Check]:
    """Yield one check: its rows belong together; and what compiles for it ahead."""
    yield Check("time of calls on the host", partial(time, context), "host")
    compiles = partial(speed.compile_ahead, partial(_cases, context), context)
    yield Check("compile calls", compiles, "compile", "calls")


def _cases(context: Context) -> Iterator[Case]:
    """Yield every pass of every call."""
    return (call.case(pass_) for call in calls(context) for pass_ in call.passes)


def time(context: Context) -> dict:
    """Time every call on the host; a dry run makes each of them once."""
    found = list(_cases(context))
    if context.dry or INTERPRETED:
        for case in found:
            case.run()
        return {"ok": True, "calls": len(found), "skipped": "dry run"}
    wrong: list[str] = []
    groups = [[pair] for pair in run.timed(found, "host", wrong)]  # of a host no speed-up is asked
    speed.rows_of(groups, speed.dtype(context), context)
    us = {str(case): 1e3 * taken.p50_ms for ((case, taken),) in groups}
    return {"ok": not wrong, "wrong": wrong, **us}


def calls(context: Context) -> Iterator[Call]:
    """Yield our operators and layers, and beside each product of a Linear the dense one."""
    made = partial(torch.randn, device=context.device, dtype=speed.dtype(context))
    x = made(LAYER.M, LAYER.K)
    weight = made(LAYER.N, LAYER.K)
    mask = (torch.rand(16, 16, device=context.device) < 0.2).float()
    masked = partial(masked_linear, tile=TILE)
    scores = torch.randn(16, 16, device=context.device)
    threshold = torch.zeros((), device=context.device, dtype=torch.float64)
    for op, function, inputs in (
        ("masked_linear", masked, (x, weight, mask)),
        ("smart_linear", partial(_smart, threshold=threshold), (x, weight, scores)),
    ):
        yield Call(op, LAYER, "64x64", 0.8, "dense", F.linear, (x, weight))
        yield Call(op, LAYER, "64x64", 0.8, op, function, inputs)
    layer = SparseLinear(LAYER.K, LAYER.N, Block(*TILE), density=0.2).to(context.device, x.dtype)
    for shape in (LAYER, FEW):
        yield Call("block_sparse_linear", shape, "64x64", 0.8, "dense", F.linear, (x[: shape.M], weight), ("fwd",))
        yield Call("block_sparse_linear", shape, "64x64", 0.8, "block_sparse_linear", layer, (x[: shape.M],), ("fwd",))
    yield from _two_of_four(x)
    conv = SparseConv2d(64, 64, 3, Block(32, 32), density=0.2, padding=1).to(context.device, x.dtype)
    images = made(8, 64, 28, 28).to(memory_format=torch.channels_last)
    yield Call("conv2d", CONV, "32x32:one", 0.8, "bsr", conv, (images,), ("fwd",))
    big = torch.randn(SCORES.M, SCORES.N, device=context.device)
    yield Call("soft_topk", SCORES, "1x1", 0.7, "soft_topk", _mask, (big,), ("step",))


def _two_of_four(x: torch.Tensor) -> Iterator[Call]:
    """Yield a product on sparse tensor cores, where there are such."""
    if x.is_cuda:
        weight = semi_structured_linear.pruned(LAYER, NM(2, 4), x.device.type, x.dtype)
        for kernel in islice(semi_structured_linear.tensor_cores(weight, x), 1):
            for name, function, inputs in (("dense", F.linear, (x, weight)), (kernel.name, kernel.function, (x,))):
                yield Call("semi_structured_linear", LAYER, "2x4", 0.5, name, function, inputs, ("fwd",))


def _smart(x: torch.Tensor, weight: torch.Tensor, scores: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    return smart_linear(x, weight, scores, threshold, 0.1, tile=TILE)


def _mask(scores: torch.Tensor) -> torch.Tensor:
    return soft_topk(scores, 0.3 * scores.shape[1], 0.1)[0]
