"""What is measured: a Case is one provider at one shape, and one row of the results."""

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
        choice: the storage formats that a chooser took.
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
    choice: str = ""

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
