"""soft_topk against bisection in plain torch, which is what one would write."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from smart_kernels.ops import soft_topk

from .case import Case, Problem, Shape

GROUPS = (
    Shape("2:4", 262144, 4, 0, "many tiny groups in registers: all 2:4 groups of a 1024x1024 weight"),
    Shape("layers", 64, 16384, 0, "one group per layer"),
    Shape("global", 1, 1_000_000, 0, "one group over a whole model"),
)
DENSITY = 0.5
TEMPERATURE = 0.05


def cases(device: str, dtype: torch.dtype, shapes: Sequence[Shape]) -> Iterator[Case]:
    """Yield both providers; scores are fp32 whatever ``dtype``, ``shapes`` only says whether the run is small."""
    small = max(shape.M * shape.N for shape in shapes) < 2**16
    for shape in GROUPS:
        if small:
            shape = replace(shape, M=min(shape.M, 8), N=min(shape.N, 600))
        scores = torch.randn(shape.M, shape.N, device=device)
        keep = DENSITY * shape.N
        for provider, function in (("torch-bisection", bisection), ("soft_topk", ours)):
            yield _case(shape, provider, function, scores, keep)


def ours(scores: Tensor, keep: float) -> Tensor:
    """Return the mask of our operator."""
    return soft_topk(scores, keep, TEMPERATURE)[0]


def bisection(scores: Tensor, keep: float, steps: int = 30) -> Tensor:
    """Return the mask with sum(mask) = keep, by halving a bracket of the threshold."""
    low = scores.amin(-1, keepdim=True) - 1
    high = scores.amax(-1, keepdim=True) + 1
    for _ in range(steps):
        middle = (low + high) / 2
        above = torch.sigmoid((scores - middle) / TEMPERATURE).sum(-1, keepdim=True) > keep
        low = torch.where(above, middle, low)
        high = torch.where(above, high, middle)
    return torch.sigmoid((scores - (low + high) / 2) / TEMPERATURE)


def _case(shape: Shape, provider: str, function, scores: Tensor, keep: float) -> Case:
    def run():
        return (function(scores, keep),)

    def exact():
        return (bisection(scores.double(), keep, steps=80),)

    problem = Problem("soft_topk", shape, "1x1", 1 - DENSITY, torch.float32, "fwd")
    return Case(problem, provider, function is bisection, run, exact, flops=0.0, bytes=traffic(shape))


def traffic(shape: Shape) -> float:
    """Return how many bytes the scores and the mask have."""
    return 2.0 * shape.M * shape.N * torch.float32.itemsize
