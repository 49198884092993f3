"""Weights that store n of every m: their saved form, and the indices of a transpose."""

import functools
import math
from collections.abc import Callable

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.common.nm import transpose_kernel
from smart_kernels.reference.common import nm as reference
from smart_kernels.shapes import groups_of, index_bits

from .launch import TENSOR, Launch
from .library import always, define
from .plan import Planned


def nm_constants(n: int, m: int) -> dict[str, int]:
    """Return the compile-time arguments of n:m; SPAN is the most bytes that the indices of one group lie in."""
    bits = n * index_bits(m)
    span = -(-(bits + 8 - math.gcd(bits, 8)) // 8)  # they begin at multiples of that divisor
    return {"KEEP": n, "GROUP": m, "BITS": index_bits(m), "SPAN": span}


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


@define("semi_structured_transpose", reference=reference.transpose, fake=_fake_transpose, visible=always)
def _transpose(values: Tensor, indices: Tensor, K: int) -> tuple[Tensor, Tensor]:
    if values.dtype == torch.float64:
        return reference.transpose(values, indices, K)
    return transposed((values.contiguous(), indices.contiguous()), (K,))


@Planned
def transposed(values, indices, K: int) -> Callable:
    """Plan what ``transpose`` does with (N, K / 2) values and (N, K / 8) indices, both contiguous."""
    N, device = values.shape[0], values.device
    new_values = functools.partial(torch.empty, (K, N // 2), dtype=values.dtype, device=device)
    new_indices = functools.partial(torch.empty, (K, -(-N // 8)), dtype=indices.dtype, device=device)
    if not K * N:
        return lambda *tensors: (new_values(), new_indices())
    launch = Launch(
        transpose_kernel, (triton.cdiv(K, 64), triton.cdiv(N, 64)), TENSOR, TENSOR, TENSOR, TENSOR,
        N, K,
        values.shape[1], indices.shape[1], N // 2, -(-N // 8),
        BLOCK_N=8, BLOCK_K=64,
    )  # fmt: skip

    def run(values, indices):
        values_t = new_values()
        indices_t = new_indices()
        launch(values, indices, values_t, indices_t)
        return values_t, indices_t

    return run
