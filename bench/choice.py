"""Never slower than dense: what ``compress_`` chooses, for one layer and for an encoder, timed again beside dense."""

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from smart_kernels import BACKENDS, DENSE, compress_

from .case import Case, Problem, Shape
from .conv2d import tap_mask
from .encoder import Encoder
from .rows import Row

LIMIT = 1.02  # time of the choice / time of the best dense
GRID = tuple(
    Shape(f"{N}x{K}/{M}", M, N, K, "the grid of the promise")
    for N, K in ((768, 3072), (3072, 768), (1024, 1024))
    for M in (1, 16, 256)
)
BLOCKS = ((16, 16), (32, 32), (64, 64), (128, 8))
SPARSITIES = (0.5, 0.8, 0.9, 0.95)
SEQUENCES = ((16, 1), (16, 8), (128, 1), (128, 8))  # length, batch
MINILM = {"layers": 6, "width": 384, "hidden": 1536, "heads": 12}
SIDES = {"best dense": DENSE, "compress_": tuple(name for name in BACKENDS if name != "jit"), "compress_ jit": BACKENDS}
CHOSEN = ("compress_", "compress_ jit")  # the sides that may not be slower


@dataclass(frozen=True)
class Subject:
    """A pruned model and its input."""

    op: str
    shape: Shape
    block: tuple[int, int]
    sparsity: float
    model: nn.Module
    x: Tensor

    def __str__(self) -> str:
        return f"{self.op} {self.shape.name} {self.block[0]}x{self.block[1]} {self.sparsity:.2f}"


def cases(dtype: torch.dtype, dry_run: bool, pattern: str, seconds: float) -> Iterator[Case]:
    """Yield the plain model and each of ``SIDES``, subject after subject."""
    for subject in chain(layers(dtype, dry_run), encoders(dtype, dry_run)):
        if re.search(pattern, str(subject)):
            yield from sides(subject, 0.0 if dry_run else seconds)


def layers(dtype: torch.dtype, dry_run: bool) -> Iterator[Subject]:
    """Yield single Linear layers over the grid of shapes, blocks and sparsities."""
    for shape in (Shape("small", 3, 128, 64, ""),) if dry_run else GRID:
        for block in BLOCKS[:1] if dry_run else BLOCKS:
            for sparsity in SPARSITIES[-1:] if dry_run else SPARSITIES:
                model = nn.Sequential(nn.Linear(shape.K, shape.N, dtype=dtype)).eval()
                prune(model, block, sparsity)
                yield Subject("choice", shape, block, sparsity, model, torch.randn(shape.M, shape.K, dtype=dtype))


def encoders(dtype: torch.dtype, dry_run: bool) -> Iterator[Subject]:
    """Yield whole encoders as large as MiniLM."""
    sizes = MINILM | ({"layers": 1, "width": 96, "hidden": 128} if dry_run else {})
    for length, batch in SEQUENCES[:1] if dry_run else SEQUENCES:
        shape = Shape(f"minilm/{batch}x{length}", length * batch, sizes["hidden"], sizes["width"], "a whole model")
        model = Encoder(**sizes).to(dtype).eval()
        prune(model, (32, 32), 0.8)
        yield Subject("model", shape, (32, 32), 0.8, model, torch.randn(batch, length, sizes["width"], dtype=dtype))


def prune(model: nn.Module, block: tuple[int, int], sparsity: float) -> int:
    """Set random blocks of every Linear and every ungrouped Conv2d to 0, as many in each row of blocks.

    The mask is drawn on the CPU. Returns how many layers have zeros now; too small ones have none.
    """
    pruned = 0
    for layer in model.modules():
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            weight = layer.weight.data
            taps = weight[0, 0].numel()
            mask = tap_mask(weight.shape[0], taps, weight.shape[1], block, sparsity)
            weight.mul_(mask.transpose(1, 2).reshape(weight.shape).to(weight))
            pruned += bool((mask == 0).any())
    return pruned


def _linears(model: nn.Module) -> list[nn.Linear]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)]


def sides(subject: Subject, seconds: float) -> Iterator[Case]:
    """Yield the plain model and what ``compress_`` makes of it, as cases; equal choices share one model in memory."""
    models = {"dense": subject.model}
    chosen = {"dense": ""}
    made = {(("dense",),) * len(_linears(subject.model)): subject.model}
    for name, backends in SIDES.items():
        model = copy.deepcopy(subject.model)
        report = compress_(model, subject.x, backends=backends, seconds=seconds)
        forms = tuple((row.choice, *row.options.values()) for row in report.rows)
        models[name] = made.setdefault(forms, model)  # in other memory a layer took 1.19 times as long as itself
        chosen[name] = summary([row.choice for row in report.rows])
    exact = torch.no_grad()(lambda: (copy.deepcopy(subject.model).double()(subject.x.double()),))
    flops, traffic = needs(subject)
    block = f"{subject.block[0]}x{subject.block[1]}"
    problem = Problem(subject.op, subject.shape, block, subject.sparsity, subject.x.dtype, "fwd")
    for name, model in models.items():
        run = torch.inference_mode()(lambda model=model: (model(subject.x),))
        yield Case(problem, name, name not in CHOSEN, run, exact, flops, traffic, chosen[name])


def summary(choices: list[str]) -> str:
    """Count choices: "ell" for one layer, "5 ell, 1 packed" for several."""
    counts = {name: choices.count(name) for name in sorted(set(choices))}
    return ", ".join(f"{count} {name}" if len(choices) > 1 else name for name, count in counts.items())


def needs(subject: Subject) -> tuple[float, float]:
    """Return FLOPs and bytes of the linear layers: live weights only."""
    weights = [layer.weight for layer in _linears(subject.model)]
    live = sum(int(weight.count_nonzero()) for weight in weights)
    activations = subject.shape.M * sum(sum(weight.shape) for weight in weights)
    return 2.0 * subject.shape.M * live, float(subject.x.element_size() * (live + activations))


def line(r: Row) -> str:
    """Return a row as a line for the terminal."""
    return (
        f"{r.op:6} {r.shape:13} {r.block:7} {r.sparsity:4.2f} {r.provider:13} {r.p50_ms:9.4f} ms"
        f"  ratio {r.ratio:.3f} +- {r.spread:.3f} of {r.runs}  {r.choice}"
    )


def slower(rows: list[Row]) -> list[str]:
    """Say which choices break the promise."""
    chosen = [r for r in rows if r.provider in CHOSEN]
    return [f"slower than dense: {line(r)}" for r in chosen if r.ratio > LIMIT]


def verdict(rows: list[Row]) -> Iterator[str]:
    """Yield the largest ratio of each side, and its speed-ups where goals were set."""
    yield from worst(rows)
    for r in rows:
        if r.provider in CHOSEN and (r.op == "model" or (r.block == "32x32" and r.sparsity == 0.9)):
            yield f"{r.provider}: {1 / r.ratio:.2f}x on {r.shape} {r.block} {r.sparsity:.0%}"


def worst(rows: list[Row]) -> Iterator[str]:
    """Yield, per side and kind of model, how much of the best dense time the worst choice took."""
    for name in CHOSEN:
        for op, kind in (("choice", "layers"), ("model", "whole models at 80 %")):
            ratios = [r.ratio for r in rows if r.provider == name and r.op == op]
            if ratios:
                yield f"{name}, {kind}: time / best dense at most {max(ratios):.3f} in {len(ratios)} cases"
