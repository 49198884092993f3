"""Cases of y = x @ weight.T: providers, the definitions they are held to, and what the product needs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.formats.processor import onednn_takes

from .case import Case, Problem, Shape
from .floor import from_l2


@dataclass(frozen=True)
class Provider:
    """One way to compute y = function(*inputs), and the definition it is held to.

    ``tile`` are the rows and columns of W that share what is read of x and dy; None where they are not known.
    """

    name: str
    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    definition: Callable[..., Tensor]
    density: float = 1.0
    passes: tuple[str, ...] = ("fwd",)
    baseline: bool = False
    tile: tuple[int, int] | None = None

    def case(self, problem: Problem, dy: Tensor, flops: float, traffic: float) -> Case:
        """Return the case of a pass; ``dy`` is the gradient of the output, ``traffic`` bytes."""
        run = runner(problem.pass_, self.function, self.inputs, dy)
        exact = exact_of(problem.pass_, self, dy)
        l2_bytes = from_l2(problem, self.tile, self.density) if self.tile else 0.0
        return Case(problem, self.name, self.baseline, run, exact, flops, traffic, l2_bytes=l2_bytes)


def linear_cases(
    op: str, shape: Shape, tile: tuple[int, int], sparsity: float, providers: Sequence[Provider]
) -> Iterator[Case]:
    """Yield cases of y (M, N) = x (M, K) @ W.T, group after group."""
    for pass_ in ("fwd", "bwd", "step"):
        for p in providers:
            if pass_ in p.passes:
                x = p.inputs[0]
                problem = Problem(op, shape, f"{tile[0]}x{tile[1]}", sparsity, x.dtype, pass_)
                dy = torch.randn(shape.M, shape.N, device=x.device, dtype=x.dtype)
                yield p.case(problem, dy, *needs(pass_, shape, p.density, x.element_size()))


def runner(pass_: str, function: Callable, inputs: Sequence[Tensor], dy: Tensor) -> Callable[[], Sequence[Tensor]]:
    """Return what a case times: "fwd", "bwd" or both in a "step". It returns y or the gradients of the inputs."""
    if pass_ == "fwd":
        return torch.no_grad()(lambda: (function(*inputs),))
    leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in inputs]
    wanted = [t for t in leaves if t.requires_grad]
    if pass_ == "bwd":
        y = function(*leaves)
        return lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True)
    return lambda: torch.autograd.grad(function(*leaves), wanted, dy)


def exact_of(pass_: str, p: Provider, dy: Tensor) -> Callable[[], Sequence[Tensor]]:
    """Return a function with the results of ``runner``, from the definition in float64."""

    def exact():
        inputs = [t.double() if t.is_floating_point() else t for t in p.inputs]
        return runner(pass_, p.definition, inputs, dy.double())()

    return exact


def needs(pass_: str, shape: Shape, density: float, size: int) -> tuple[float, float]:
    """Return FLOPs and bytes: forward reads x, W and writes y; backward reads dy, x, W and writes dx, dW."""
    x = shape.M * shape.K
    y = shape.M * shape.N
    weight = shape.N * shape.K * density
    flops = 2.0 * shape.M * shape.N * shape.K * density
    forward = (flops, x + weight + y)
    backward = (2 * flops, 2 * x + 2 * weight + y)
    needs = {"fwd": [forward], "bwd": [backward], "step": [forward, backward]}[pass_]
    return sum(n[0] for n in needs), size * sum(n[1] for n in needs)


def expand(values: Tensor, tile: tuple[int, int], shape: Shape) -> Tensor:
    """Repeat (rows, cols) per tile to (N, K) per weight; written apart from the package, as part of its oracle."""
    return values.repeat_interleave(tile[0], 0).repeat_interleave(tile[1], 1)[: shape.N, : shape.K]


def random_mask(shape: Shape, tile: tuple[int, int], sparsity: float, device: str) -> Tensor:
    """Return 0/1 per tile, the same number of live tiles in every row of tiles, at least one."""
    rows = -(-shape.N // tile[0])
    cols = -(-shape.K // tile[1])
    keep = max(1, round(cols * (1 - sparsity)))
    live = torch.rand(rows, cols, device=device).argsort(1)[:, :keep]
    return torch.zeros(rows, cols, device=device).scatter_(1, live, 1.0)


def dense(weight: Tensor, x: Tensor, passes: tuple[str, ...]) -> list[Provider]:
    """Return the dense baselines: ``F.linear``, and where oneDNN takes the weight, it packed ahead."""
    found = [Provider("dense", F.linear, (x, weight), F.linear, passes=passes, baseline=True)]
    if onednn_takes(weight):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, x.shape[0])

        def onednn(x: Tensor) -> Tensor:
            return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")

        found.append(Provider("dense-packed", onednn, (x,), lambda x: F.linear(x, weight.double()), baseline=True))
    return found
