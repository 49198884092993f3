"""A Case is one provider of one problem, and becomes one row of the results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
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
    Shape("llama-down/token", 1, 4096, 14336, "one token, few rows of blocks"),
    Shape("vit-b-mlp/image", 197, 3072, 768, "one image: a launch costs as much as the product"),
    Shape("llama-up/512", 512, 14336, 4096, "between decode and prefill"),
    Shape("llama-up/16384", 16384, 14336, 4096, "the longest prefill"),
)
CPU_SHAPES = (
    Shape("vit-s-mlp/1", 1, 3072, 768, "one token: weight traffic dominates"),
    Shape("vit-s-mlp/16", 16, 3072, 768, "a small batch"),
    Shape("vit-s-mlp/197", 197, 3072, 768, "one image: arithmetic dominates"),
    Shape("resnet-1x1", 196, 1024, 256, "a 14x14 map, short K"),
)


def shapes(device: str, dry_run: bool = False) -> tuple[Shape, ...]:
    """Return the shapes for a device; a dry run keeps two names and makes them small, one of them ragged."""
    full = GPU_SHAPES if device == "cuda" else CPU_SHAPES
    return (replace(full[0], M=3, N=128, K=64), replace(full[1], M=33, N=96, K=80)) if dry_run else full


@dataclass(frozen=True)
class Problem:
    """The thing that all providers of a group compute, so that their times can be compared.

    Attributes:
        op: the operator.
        block: what one mask value or stored block covers, "64x64".
        sparsity: fraction of zeros in the weight.
        pass_: "fwd", "bwd" or "step" (both).
    """

    op: str
    shape: Shape
    block: str
    sparsity: float
    dtype: torch.dtype
    pass_: str


@dataclass(frozen=True)
class Case:
    """One provider of one problem.

    Attributes:
        provider: by whom it is computed.
        baseline: the speedup is against the fastest baseline of the problem.
        run: computes the outputs.
        exact: computes them in float64.
        flops, bytes: what the problem needs: live work only, each input read once, each output written once.
        l2_bytes: what its blocks read of x and dy from the L2 cache; 0 where that is not known.
        choice: the storage formats that a chooser took.
    """

    problem: Problem
    provider: str
    baseline: bool
    run: Callable[[], Sequence[Tensor]]
    exact: Callable[[], Sequence[Tensor]]
    flops: float
    bytes: float
    choice: str = ""
    l2_bytes: float = 0.0

    def __str__(self) -> str:
        p = self.problem
        dtype = NAMES[p.dtype]
        return f"{p.op}/{self.provider} {p.shape.name} {p.block} {p.sparsity:.2f} {dtype} {p.pass_}"


def wrong(case: Case) -> str | None:
    """Say why the outputs of a case are not what float64 says; None when they are."""
    for got, exact in zip(case.run(), case.exact(), strict=True):
        if got.shape != exact.shape:
            return f"shape {tuple(got.shape)}, expected {tuple(exact.shape)}"
        error = ((got.double() - exact).norm() / exact.norm().clamp_min(1e-12)).item()
        if not error <= TOLERANCE[case.problem.dtype]:
            return f"relative error {error:.1e} > {TOLERANCE[case.problem.dtype]:.0e}"
    return None
