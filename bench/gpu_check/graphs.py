"""A whole training step in a CUDA graph, pruner and optimizer included: masks are those of eager steps, bit for bit."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from smart_kernels import NM, Block, Channel, Pattern
from smart_train import SmartPruner
from smart_train.run.optimizers import make_capturable_
from smart_train.run.replays import WARM, CudaGraphs

from .check import Check, Context

PATTERNS = (Block(32, 32), Block(64, 64), Block(128, 128), Channel(), NM(2, 4))
STEPS = 20
SIZES = (512, 1024, 512, 512)


def cases(context: Context) -> Iterator[Check]:
    """Yield every pattern; on a CPU the steps are taken twice and nothing is captured."""
    for pattern in PATTERNS[:1] if context.small else PATTERNS:
        name = f"step in a graph {pattern}"
        yield Check(name, partial(check, pattern, context), family="graphs", covers=name)


def check(pattern: Pattern, context: Context) -> dict:
    """Compare what every step leaves behind, eager and replayed."""
    _, step = trained(pattern, context)
    expected = [step() for _ in range(WARM + STEPS)]
    pruner, step = trained(pattern, context)
    got = [step() for _ in range(WARM + STEPS)] if context.device == "cpu" else replayed(pruner, step)
    equal = [all(map(torch.equal, a, b)) for a, b in zip(got, expected, strict=True)]
    moved = not all(map(torch.equal, expected[WARM], expected[-1]))
    return {"ok": all(equal) and moved and pruner.steps == WARM + STEPS, "equal": sum(equal), "of": len(equal)}


def replayed(pruner: SmartPruner, step: Callable[[], list[Tensor]]) -> list[list[Tensor]]:
    """Take ``WARM`` steps, capture one, and return what they and ``STEPS`` replays leave behind."""
    graphs = CudaGraphs()
    with graphs.aside():
        found = [step() for _ in range(WARM)]
        replay = graphs.capture(step)
    for number in range(STEPS):
        if number:
            pruner.replayed()
        found.append([value.clone() for value in replay()])
    return found


def trained(pattern: Pattern, context: Context) -> tuple[SmartPruner, Callable[[], list[Tensor]]]:
    """Return a pruner and its training step, which returns scores, weights and masks."""
    torch.manual_seed(0)
    sizes = (64, 64, 64) if context.small else SIZES
    model = nn.Sequential(*(nn.Linear(*each) for each in pairwise(sizes))).to(context.device)
    pruner = SmartPruner(model, pattern, pattern.sparsity or 0.7, search_steps=2 * STEPS)
    optimizer = torch.optim.Adam([{"params": pruner.weights()}, pruner.param_group(lr=0.1)], lr=1e-3)
    if context.device == "cuda":
        make_capturable_(optimizer, next(model.parameters()).device)
    x = torch.randn(256, sizes[0], device=context.device)

    def step() -> list[Tensor]:
        pruner.step()
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        masks = [] if pattern.local else pruner.masked.masks().values()
        return [value.detach().clone() for value in (*masks, *model.parameters())]

    return pruner, step
