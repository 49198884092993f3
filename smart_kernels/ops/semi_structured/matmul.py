"""n:m weights on a GPU: which kernel, how many programs. No host synchronisation."""

import math

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.semi_structured.linear import decode_words_kernel, semi_structured_kernel, transpose_kernel
from smart_kernels.kernels.semi_structured.decode import TILE, semi_structured_decode_kernel, split_sum_kernel
from smart_kernels.ops.common.block_matmul import m_class, precision
from smart_kernels.reference.semi_structured.linear import groups_of, index_bits

PROGRAMS = 264  # of the decode kernel, two per multiprocessor of the GPU it was laid out for; K is split to reach it
COLUMNS = 64  # of y in one of them
EVEN = 64  # sizes divisible by this have no edge in any configuration of the portable kernel
WORDS = 1024  # per program, where indices are rearranged


def spread_matmul(
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    kept: tuple[int, int],
    size: int,
    activation: str | None = None,
    transposed: bool = False,
) -> Tensor:
    """``activation(x @ W.T + bias + residual)``, or ``x @ W``; the weight is spread out tile by tile.

    Args:
        x: (M, K), or (M, N) for ``transposed``; any strides.
        values, indices: as saved, rows next to each other.
        bias, residual: (size,) and (M, size), or None.
        kept: (n, m).
        size: columns of the result.

    Returns:
        (M, size), dtype of ``x``.
    """
    (n, m), M = kept, x.shape[0]
    values, indices = values.contiguous(), indices.contiguous()
    y, bits = x.new_empty(M, size), index_bits(m)
    if y.numel():
        grid = lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * triton.cdiv(size, meta["BLOCK_O"]),)  # noqa: E731
        semi_structured_kernel[grid](
            x, values, indices, None if bias is None else bias.contiguous(), residual, y,
            M, size, x.shape[1],
            *x.stride(), values.stride(0), indices.stride(0), *_strides(residual), y.stride(0),
            m_class(M),
            KEEP=n, GROUP=m, BITS=bits, SPAN=index_span(n, m),
            TRANSPOSED=transposed, EVEN=size % EVEN == 0 and x.shape[1] % EVEN == 0 < x.shape[1],
            ACTIVATION=activation, PRECISION=precision(),
        )  # fmt: skip
    return y


def index_span(n: int, m: int) -> int:
    """Most bytes that the indices of one group lie in."""
    bits = n * index_bits(m)
    return -(-(bits + 8 - math.gcd(bits, 8)) // 8)  # they begin at multiples of that divisor


def decode_matmul(
    x: Tensor, values: Tensor, words: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str | None
) -> Tensor:
    """``activation(x @ W.T + bias + residual)`` of a 2:4 weight, for few rows of x; fp16 or bf16.

    Args:
        x: (M, K).
        values: (N, 2 * ceil(K / 4)).
        words: as ``decode_words`` makes them.
    """
    (M, K), N = x.shape, len(values)
    y = x.new_empty(M, N)
    if not y.numel():
        return y
    x = x if x.stride(1) == 1 else x.contiguous()
    pairs, bias = _pairs(values), None if bias is None else bias.contiguous()
    splits = splits_of(M, N, K, x.device)
    sums = y if splits == 1 else x.new_empty(splits, M, N, dtype=torch.float32)
    grid = lambda meta: (triton.cdiv(N, meta["BLOCK_N"]), splits, triton.cdiv(M, meta["BLOCK_M"]))  # noqa: E731
    semi_structured_decode_kernel[grid](
        x, pairs, words, bias, residual, sums,
        M, N, K,
        x.stride(0), pairs.stride(0), words.stride(0), *_strides(residual), M * N, N,
        m_class(M), splits,
        SPLIT=splits > 1, ACTIVATION=activation,
    )  # fmt: skip
    if splits > 1:
        split_sum_kernel[(M, triton.cdiv(N, 512))](
            sums, bias, residual, y, N, splits, M * N, N, *_strides(residual), N, ACTIVATION=activation, BLOCK_N=512
        )
    return y


def splits_of(M: int, N: int, K: int, device: torch.device) -> int:
    """How many programs share the columns of a weight: enough to fill the GPU, each with a whole step to do."""
    wanted = PROGRAMS
    if device.type == "cuda":
        wanted = 2 * torch.cuda.get_device_properties(device).multi_processor_count
    programs = triton.cdiv(N, COLUMNS) * triton.cdiv(M, 32)
    return max(1, min(K // TILE.value, wanted // programs))


def words_of(indices: Tensor, K: int) -> Tensor:
    """See ``reference.semi_structured.decode_words``."""
    indices, width = indices.contiguous(), 8 * -(-K // TILE.value)
    words = indices.new_empty(len(indices), width, dtype=torch.int32)
    if words.numel():
        decode_words_kernel[(triton.cdiv(words.numel(), WORDS),)](
            indices, words, words.numel(), width, groups_of(K, 4), indices.stride(0), BLOCK=WORDS
        )
    return words


def transposed(values: Tensor, indices: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """See ``reference.semi_structured.transpose``."""
    N, (values, indices) = len(values), (values.contiguous(), indices.contiguous())
    values_t, indices_t = values.new_empty(K, N // 2), indices.new_empty(K, -(-N // 8))
    if values_t.numel():
        transpose_kernel[(triton.cdiv(K, 64), triton.cdiv(N, 64))](
            values, indices, values_t, indices_t, N, K,
            *(t.stride(0) for t in (values, indices, values_t, indices_t)), BLOCK_N=8, BLOCK_K=64,
        )  # fmt: skip
    return values_t, indices_t


def _pairs(values: Tensor) -> Tensor:
    """(N, 2 G) of 16 bits -> (N, G) int32, a view where the address allows it."""
    values = values.contiguous()
    return (values if values.storage_offset() % 2 == 0 else values.clone()).view(torch.int32)


def _strides(residual: Tensor | None) -> tuple[int, int]:
    return (0, 0) if residual is None else (residual.stride(0), residual.stride(1))
