"""The product with a 2:4 weight on ``mma.sp``, decided once for tensors alike."""

import functools
from collections.abc import Callable

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.common.pieces import sum_pieces_kernel
from smart_kernels.ops.common.arguments import m_class, overlapped, strides
from smart_kernels.ops.common.launch import NOTHING, TENSOR, Launch, Nothing, slot

from . import device
from .packing import BYTES, TYPES, PackedWeight, step

SMALL = (128, 16)  # rows of W and of x in the smallest block of mma.sp
SHARE = 8  # steps that a program has at least, where several share the columns of a block
SUMMED = 128  # columns of y that a program adds up


def plan_mma(
    x: Tensor, packed: PackedWeight, others: tuple, activation: str | None, dtype: torch.dtype
) -> Callable[..., None]:
    """Plan the product with ready x; ``others`` are scale, bias and residual."""
    count = splits(len(x), packed, device.processors(packed.weight.device))
    if count > 1:
        return _plan_shares(x, packed, others, activation, count)
    launch = _mma_launch(x, packed, others, activation, 1)
    return lambda x, weight, *others: launch(x.view(torch.int32), weight.view(torch.int32), *others)


def _plan_shares(
    x: Tensor, packed: PackedWeight, others: tuple, activation: str | None, count: int
) -> Callable[..., None]:
    """Plan likewise where ``count`` programs share the columns of a block."""
    M, N = len(x), packed.out_features
    nothing = (NOTHING,) * 3
    launch = _mma_launch(x, packed, nothing, None, count)
    scale, _, residual = others
    add = Launch(
        sum_pieces_kernel, (triton.cdiv(N, SUMMED), M),
        TENSOR, *map(slot, others), TENSOR, M, N, stride_of(scale), *strides(residual), N,
        SPLITS=count, ACTIVATION=activation, BLOCK_N=SUMMED, num_warps=1, **overlapped(),
    )  # fmt: skip
    dtype = torch.int32 if x.dtype == torch.int8 else torch.float32
    sums = functools.partial(torch.empty, (count * M, N), dtype=dtype, device=packed.weight.device)

    def run(x, weight, metadata, scale, bias, residual, y):
        pieces = sums()
        launch(x.view(torch.int32), weight.view(torch.int32), metadata, *nothing, pieces)
        add(pieces, scale, bias, residual, y)

    return run


def _mma_launch(x: Tensor, packed: PackedWeight, others: tuple, activation: str | None, count: int) -> Launch:
    """Return the launch that writes the product or, of ``count`` programs that share a block, the sums of each."""
    from smart_kernels.kernels.tensor_core.mma import sparse_mma_kernel

    (M, K), N = x.shape, packed.out_features
    rows, columns = packed.shape
    chunk = 16 // x.itemsize
    pairs = chunk // 8  # columns of two bytes
    scale, _, residual = others
    return Launch(
        sparse_mma_kernel, lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * (rows // meta["BLOCK_N"]), count),
        TENSOR, TENSOR, TENSOR, *map(slot, others), TENSOR,
        M, N, K // pairs, rows, columns // pairs,
        x.stride(0) // chunk, stride_of(scale), *strides(residual), N,
        m_class(M),
        EVEN_K=columns == K, TYPE=(TYPES | BYTES)[x.dtype], ACTIVATION=activation, SPLIT=count > 1,
    )  # fmt: skip


def splits(M: int, packed: PackedWeight, processors: int) -> int:
    """Return how many programs share the columns of a block.

    Where blocks are fewer than multiprocessors, two per multiprocessor in all. Each has ``SHARE`` steps of 128 bytes of
    x at least, and writing and reading their sums again is at most a quarter of reading the weight, which is what few
    rows of x wait for.
    """
    rows, columns = packed.shape
    blocks = rows // SMALL[0] * triton.cdiv(M, SMALL[1])
    if blocks >= processors:
        return 1
    affordable = (packed.weight.nbytes + packed.metadata.nbytes) // (4 * 8 * M * packed.out_features)
    return max(1, min(2 * processors // blocks, columns // step(packed.dtype) // SHARE, affordable))


def stride_of(scale: Tensor | Nothing) -> int:
    """Return how far one scale is from the next, 0 where there is one or none."""
    return scale.stride(0) if scale is not NOTHING and scale.dim() else 0
