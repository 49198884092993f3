"""Weights that store n of every m: their saved form, and the indices of a transpose."""

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.common.nm import transpose_kernel
from smart_kernels.reference.common import nm as reference
from smart_kernels.shapes import groups_of, index_bits

from .library import define


@dataclass(frozen=True)
class NMWeight:
    """A weight (N, K) as it is saved.

    Attributes:
        values: (N, G * n), G groups of m weights.
        indices: (N, ceil(G * n * bits / 8)) uint8, the place of each value in its group, lowest bits first.
        n, m: what is kept of every m weights.
    """

    values: Tensor
    indices: Tensor
    n: int
    m: int

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """The kernel arguments values and indices, rows next to each other."""
        return self.values.contiguous(), self.indices.contiguous()

    @property
    def constants(self) -> dict[str, int]:
        """The compile-time arguments; SPAN is the most bytes that the indices of one group lie in."""
        bits = self.n * index_bits(self.m)
        span = -(-(bits + 8 - math.gcd(bits, 8)) // 8)  # they begin at multiples of that divisor
        return {"KEEP": self.n, "GROUP": self.m, "BITS": index_bits(self.m), "SPAN": span}


def transpose(values: Tensor, indices: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """Turn 2:4 values and indices of W into those of W.T, which is 2:4, too, in one pass. 4 divides N and K."""
    return _transpose(values, indices, K)


def check_places(indices: Tensor, n: int, m: int, K: int, transposable: bool = False) -> None:
    """Raise ``ValueError`` unless indices, as saved, rise in each group; for ``transposable`` 2:4, unless those of W.T
    do, too: two in every four of a column. Reads them: synchronises."""
    groups = groups_of(K, m)
    places = reference.unpack(indices, index_bits(m), groups * n).unflatten(1, (groups, n)).int()
    if places.numel() and ((places.diff(dim=-1) <= 0).any() or places.max() >= m):
        raise ValueError(f"indices must rise within [0, {m}) in each group of {m}, got others")
    if transposable and ((1 << 4 * places).sum(-1).unflatten(0, (-1, 4)).sum(1) != 0x2222).any():
        raise ValueError("indices must name each column twice in every four rows for transposable, got others")


def _fake_transpose(values, indices, K):
    N = values.shape[0]
    return values.new_empty(K, N // 2), indices.new_empty(K, -(-N // 8))


@define("semi_structured_transpose", reference=reference.transpose, fake=_fake_transpose)
def _transpose(values: Tensor, indices: Tensor, K: int) -> tuple[Tensor, Tensor]:
    if values.dtype == torch.float64:
        return reference.transpose(values, indices, K)
    return launch_transpose(values, indices, K)


def launch_transpose(values: Tensor, indices: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """Launch what ``transpose`` registers."""
    N = len(values)
    values = values.contiguous()
    indices = indices.contiguous()
    values_t = values.new_empty(K, N // 2)
    indices_t = indices.new_empty(K, -(-N // 8))
    if values_t.numel():
        transpose_kernel[(triton.cdiv(K, 64), triton.cdiv(N, 64))](
            values, indices, values_t, indices_t, N, K,
            *(t.stride(0) for t in (values, indices, values_t, indices_t)), BLOCK_N=8, BLOCK_K=64,
        )  # fmt: skip
    return values_t, indices_t
