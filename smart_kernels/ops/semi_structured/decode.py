"""Products of few rows with a 2:4 weight on a GPU: how many programs share it. No host synchronisation."""

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.semi_structured.decode import TILE, semi_structured_decode_kernel, split_sum_kernel
from smart_kernels.ops.common.arguments import m_class
from smart_kernels.ops.common.epilogue import Epilogue

PROGRAMS = 264  # of the decode kernel, two per multiprocessor of the GPU it was laid out for; K is split to reach it
COLUMNS = 64  # of y in one of them


def decode_matmul(x: Tensor, values: Tensor, words: Tensor, epilogue: Epilogue) -> Tensor:
    """Return ``activation(x @ W.T + bias + residual)`` of a 2:4 weight, for few rows of x; fp16 or bf16.

    Args:
        x: (M, K).
        values: (N, 2 * ceil(K / 4)).
        words: as ``decode_words`` makes them.
        epilogue: no dtype.
    """
    y = x.new_empty(len(x), len(values))
    if y.numel():
        _launch(x if x.stride(1) == 1 else x.contiguous(), _pairs(values), words, epilogue, y)
    return y


def _launch(x: Tensor, pairs: Tensor, words: Tensor, epilogue: Epilogue, y: Tensor) -> None:
    M, K = x.shape
    N = len(pairs)
    splits = splits_of(M, N, K, x.device)
    sums = y if splits == 1 else x.new_empty(splits, M, N, dtype=torch.float32)
    grid = lambda meta: (triton.cdiv(N, meta["BLOCK_N"]), splits, triton.cdiv(M, meta["BLOCK_M"]))  # noqa: E731
    semi_structured_decode_kernel[grid](
        x, pairs, words, *epilogue.tensors, sums,
        M, N, K,
        x.stride(0), pairs.stride(0), words.stride(0), *epilogue.strides, M * N, N,
        m_class(M), splits,
        SPLIT=splits > 1, ACTIVATION=epilogue.activation,
    )  # fmt: skip
    if splits > 1:
        split_sum_kernel[(M, triton.cdiv(N, 512))](
            sums, *epilogue.tensors, y,
            N, splits,
            M * N, N, *epilogue.strides, N,
            ACTIVATION=epilogue.activation, BLOCK_N=512,
        )  # fmt: skip


def splits_of(M: int, N: int, K: int, device: torch.device) -> int:
    """Return how many programs share the columns of a weight: they fill the GPU, and each has a whole step to do."""
    wanted = PROGRAMS
    if device.type == "cuda":
        wanted = 2 * torch.cuda.get_device_properties(device).multi_processor_count
    programs = triton.cdiv(N, COLUMNS) * triton.cdiv(M, 32)
    return max(1, min(K // TILE.value, wanted // programs))


def _pairs(values: Tensor) -> Tensor:
    """Return (N, 2 G) of 16 bits as (N, G) int32, a view where the address allows it."""
    values = values.contiguous()
    return (values if values.storage_offset() % 2 == 0 else values.clone()).view(torch.int32)
