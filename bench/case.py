"""What is measured: a Case is one provider at one shape, and one row of the results."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}  # ||y - exact|| / ||exact||


@dataclass(frozen=True)
class Shape:
    """y (M, N) = x (M, K) @ weight (N, K).T, or M groups of N scores (K = 0)."""

    name: str
    M: int
    N: int
    K: int
    why: str


GPU_SHAPES = (
    Shape("llama-up/decode", 16, 14336, 4096, "weight traffic dominates"),
    Shape("llama-up/prefill", 4096, 14336, 4096, "tensor cores dominate"),
    Shape("vit-l-mlp/train", 12608, 4096, 1024, "64 images of 197 tokens, short K"),
    Shape("resnet-1x1/train", 50176, 1024, 256, "many rows, few columns: activation traffic dominates"),
)
CPU_SHAPES = (
    Shape("vit-s-mlp/1", 1, 3072, 768, "one token: weight traffic dominates"),
    Shape("vit-s-mlp/16", 16, 3072, 768, "a small batch"),
    Shape("vit-s-mlp/197", 197, 3072, 768, "one image: arithmetic dominates"),
    Shape("resnet-1x1", 196, 1024, 256, "a 14x14 map, short K"),
)


def shapes(device: str, dry_run: bool = False) -> tuple[Shape, ...]:
    """The shapes for a device; a dry run keeps their names and makes them small, one of them ragged."""
    full = GPU_SHAPES if device == "cuda" else CPU_SHAPES
    return (replace(full[0], M=3, N=128, K=64), replace(full[1], M=33, N=96, K=80)) if dry_run else full


@dataclass(frozen=True)
class Case:
    """One provider of one operation.

    Attributes:
        op, provider: what is computed, and by whom.
        baseline: the speedup is against the fastest baseline of the group.
        block: what one mask value or stored block covers, "64x64".
        sparsity: fraction of zeros in the weight.
        pass_: "fwd", "bwd" or "step" (both).
        run: computes the outputs.
        exact: computes them in float64.
        flops, bytes: what the operation needs: live work only, each input read once, each output written once.
    """

    op: str
    provider: str
    baseline: bool
    shape: Shape
    block: str
    sparsity: float
    dtype: torch.dtype
    pass_: str
    run: Callable[[], Sequence[Tensor]]
    exact: Callable[[], Sequence[Tensor]]
    flops: float
    bytes: float

    @property
    def group(self) -> tuple:
        """Cases of one group compute the same thing and are timed together."""
        return self.op, self.shape, self.block, self.sparsity, self.dtype, self.pass_

    def __str__(self) -> str:
        dtype = NAMES[self.dtype]
        return f"{self.op}/{self.provider} {self.shape.name} {self.block} {self.sparsity:.2f} {dtype} {self.pass_}"


def wrong(case: Case) -> str | None:
    """Why the outputs of a case are not what float64 says; None when they are."""
    for got, exact in zip(case.run(), case.exact(), strict=True):
        if got.shape != exact.shape:
            return f"shape {tuple(got.shape)}, expected {tuple(exact.shape)}"
        error = ((got.double() - exact).norm() / exact.norm().clamp_min(1e-12)).item()
        if not error <= TOLERANCE[case.dtype]:
            return f"relative error {error:.1e} > {TOLERANCE[case.dtype]:.0e}"
    return None


@dataclass(frozen=True)
class Provider:
    """One way to compute y = function(*inputs), and the definition it is held to."""

    name: str
    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    definition: Callable[..., Tensor]
    density: float = 1.0
    passes: tuple[str, ...] = ("fwd",)
    baseline: bool = False


def linear_cases(
    op: str, shape: Shape, tile: tuple[int, int], sparsity: float, providers: Sequence[Provider]
) -> Iterator[Case]:
    """Cases of y (M, N) = x (M, K) @ W.T, group after group."""
    for pass_ in ("fwd", "bwd", "step"):
        for p in providers:
            if pass_ not in p.passes:
                continue
            x = p.inputs[0]
            dy = torch.randn(shape.M, shape.N, device=x.device, dtype=x.dtype)
            run, exact = _runner(pass_, p.function, p.inputs, dy), _exact(pass_, p, dy)
            flops, traffic = _needs(pass_, shape, p.density, x.element_size())
            block = f"{tile[0]}x{tile[1]}"
            yield Case(op, p.name, p.baseline, shape, block, sparsity, x.dtype, pass_, run, exact, flops, traffic)


def _runner(pass_: str, function: Callable, inputs: Sequence[Tensor], dy: Tensor) -> Callable[[], Sequence[Tensor]]:
    if pass_ == "fwd":
        return torch.no_grad()(lambda: (function(*inputs),))
    leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in inputs]
    wanted = [t for t in leaves if t.requires_grad]
    if pass_ == "bwd":
        y = function(*leaves)
        return lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True)
    return lambda: torch.autograd.grad(function(*leaves), wanted, dy)


def _exact(pass_: str, p: Provider, dy: Tensor) -> Callable[[], Sequence[Tensor]]:
    def exact():
        inputs = [t.double() if t.is_floating_point() else t for t in p.inputs]
        return _runner(pass_, p.definition, inputs, dy.double())()

    return exact


def _needs(pass_: str, shape: Shape, density: float, size: int) -> tuple[float, float]:
    """FLOPs and bytes: forward reads x, W and writes y; backward reads dy, x, W and writes dx, dW."""
    x, y, weight = shape.M * shape.K, shape.M * shape.N, shape.N * shape.K * density
    flops = 2.0 * shape.M * shape.N * shape.K * density
    forward, backward = (flops, x + weight + y), (2 * flops, 2 * x + 2 * weight + y)
    needs = {"fwd": [forward], "bwd": [backward], "step": [forward, backward]}[pass_]
    return sum(n[0] for n in needs), size * sum(n[1] for n in needs)


def expand(values: Tensor, tile: tuple[int, int], shape: Shape) -> Tensor:
    """(rows, cols) per tile -> (N, K) per weight; written apart from the package, as part of its oracle."""
    return values.repeat_interleave(tile[0], 0).repeat_interleave(tile[1], 1)[: shape.N, : shape.K]


def random_mask(shape: Shape, tile: tuple[int, int], sparsity: float, device: str) -> Tensor:
    """0/1 per tile, the same number of live tiles in every row of tiles, at least one."""
    rows, cols = -(-shape.N // tile[0]), -(-shape.K // tile[1])
    keep = max(1, round(cols * (1 - sparsity)))
    live = torch.rand(rows, cols, device=device).argsort(1)[:, :keep]
    return torch.zeros(rows, cols, device=device).scatter_(1, live, 1.0)


def dense(weight: Tensor, x: Tensor, passes: tuple[str, ...]) -> list[Provider]:
    """The dense baselines: ``F.linear``, and on the CPU oneDNN with the weight packed ahead."""
    found = [Provider("dense", F.linear, (x, weight), F.linear, passes=passes, baseline=True)]
    if x.device.type == "cpu" and torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, x.shape[0])

        def onednn(x: Tensor) -> Tensor:
            return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")

        found.append(Provider("dense-packed", onednn, (x,), lambda x: F.linear(x, weight.double()), baseline=True))
    return found
