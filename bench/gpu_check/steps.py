"""A training step of a transformer: dense, in the search, and with the masks fixed, as when it is finetuned."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from smart_kernels import Block
from smart_train import SmartPruner
from smart_train.run.replays import CudaGraphs

from .. import run, timing
from ..case import Case, Problem, Shape
from ..encoder import Encoder
from . import speed
from .check import INTERPRETED, Check, Context
from .models import TINY

VIT_L = {"layers": 4, "width": 1024, "hidden": 4096, "heads": 16}
SHAPE = Shape("vit-l, 4 layers, 64 images", 64 * 197, 4096, 1024, "forward and backward")
TILES = ((64, 64), (32, 32))
SPARSITIES = (0.8, 0.9, 0.5)
WARM = 5  # steps before one is timed
TIMED = 10
FREE = 1  # step after the last of the search: its masks are fixed


@dataclass(frozen=True)
class Trained:
    """A model that is pruned while it trains, and its input."""

    net: nn.Module
    x: Tensor

    def step(self) -> tuple[Tensor | None, ...]:
        """Return the gradients of everything that learns."""
        learns = [p for p in self.net.parameters() if p.requires_grad]
        return torch.autograd.grad(self.net(self.x).float().square().mean(), learns, allow_unused=True)


def cases(context: Context) -> Iterator[Check]:
    """Yield every block and sparsity."""
    for tile in TILES[1:] if context.small else TILES:
        for sparsity in SPARSITIES[2:] if context.small else SPARSITIES:
            label = f"training step {SHAPE.name} {tile[0]}x{tile[1]} {sparsity:.0%}"
            yield Check(label, partial(check, tile, sparsity, context), "model", "training")


def check(tile: tuple[int, int], sparsity: float, context: Context) -> dict:
    """Run the search and what follows it; time both beside the dense step."""
    dense = made(context)
    pruned = made(context)
    steps = WARM + TIMED * (1 + (context.device == "cuda"))
    pruner = SmartPruner(pruned.net, Block(*tile), sparsity, search_steps=steps)

    def search() -> None:
        pruner.step()
        pruned.step()

    for _ in range(WARM):
        search()
    samples = {"search": [seconds(search, context.device) for _ in range(TIMED)]}
    if context.device == "cuda":
        samples["search in a graph"] = in_a_graph(pruner, pruned)
    for _ in range(FREE):
        search()
    finite = all(g.isfinite().all() for g in pruned.step() if g is not None)
    if context.dry or INTERPRETED:
        return {"ok": bool(finite), "skipped": "dry run"}
    problem = Problem("training", SHAPE, f"{tile[0]}x{tile[1]}", sparsity, dense.x.dtype, "step")
    return {"ok": bool(finite), **timed(problem, dense.step, pruned.step, samples, context)}


def in_a_graph(pruner: SmartPruner, pruned: Trained) -> list[float]:
    """Return the seconds of steps of the search that are replayed from a CUDA graph, the pruner's own included."""
    graphs = CudaGraphs()

    def step() -> Tensor:
        pruner.step()
        return next(gradient for gradient in pruned.step() if gradient is not None)

    with graphs.aside():
        replay = graphs.capture(step)
    found = []
    for number in range(TIMED):
        if number:
            pruner.replayed()
        found.append(seconds(replay, "cuda"))
    return found


def timed(
    problem: Problem, dense: Callable, finetuning: Callable, samples: dict[str, list[float]], context: Context
) -> dict:
    """Time two steps out of a graph, and keep their rows with those of the search, whose steps took these seconds."""
    calls = {"dense": dense, "finetuning": finetuning}
    found = [Case(problem, name, name == "dense", call, tuple, 0.0, 0.0) for name, call in calls.items()]
    wrong: list[str] = []
    pairs = list(run.timed(found, "graph", wrong))
    groups = [pairs]
    for name, took in samples.items():
        searched = Case(problem, name, False, tuple, tuple, 0.0, 0.0, "wall clock")
        groups.append([(searched, timing.summarise(took, "events"))])
    return {"wrong": wrong, **speed.rows_of(groups, problem.dtype, context)}


def made(context: Context) -> Trained:
    """Return a model, small in a rehearsal."""
    sizes, size = (TINY, (2, 9, 64)) if context.small else (VIT_L, (64, 197, 1024))
    dtype = speed.dtype(context)
    return Trained(Encoder(**sizes).to(context.device, dtype), torch.randn(size, device=context.device, dtype=dtype))


def seconds(function: Callable[[], object], device: str) -> float:
    """Return how long a call takes, what it leaves to the device included."""
    begin = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin
