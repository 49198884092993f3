"""What the census compiles: each case is one public call, forward and backward, so every kernel behind it is seen."""

from collections.abc import Callable
from functools import partial

import torch

from smart_kernels.ops import block_sparse_linear, masked_linear, smart_linear, soft_topk

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def _linear(M: int, N: int, K: int, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.empty(M, K, dtype=DTYPES[dtype], requires_grad=True)
    return x, torch.empty(N, K, dtype=DTYPES[dtype], requires_grad=True)


def _masked(tile: tuple[int, int], M: int = 4096, N: int = 1024, K: int = 1024, dtype: str = "bf16", **flags) -> None:
    x, weight = _linear(M, N, K, dtype)
    mask = torch.zeros(-(-N // tile[0]), -(-K // tile[1]), requires_grad=True)
    y = masked_linear(x, weight, mask, tile=tile, **flags)
    y.backward(torch.empty_like(y))


def _smart(tile: tuple[int, int], M: int = 4096, N: int = 1024, K: int = 1024, dtype: str = "bf16") -> None:
    x, weight = _linear(M, N, K, dtype)
    scores = torch.zeros(-(-N // tile[0]), -(-K // tile[1]), requires_grad=True)
    threshold = torch.zeros((), dtype=torch.float64, requires_grad=True)
    y = smart_linear(x, weight, scores, threshold, 0.1, tile=tile)
    y.backward(torch.empty_like(y))


def _block(block: tuple[int, int], M: int = 4096, N: int = 1024, K: int = 1024, dtype: str = "bf16") -> None:
    rows, cols = -(-N // block[0]), -(-K // block[1])
    nnz = rows * cols // 4
    crow = torch.linspace(0, nnz, rows + 1).int()
    col = (torch.arange(nnz) % cols).int()
    values = torch.empty(nnz, *block, dtype=DTYPES[dtype], requires_grad=True)
    x = torch.empty(M, K, dtype=DTYPES[dtype], requires_grad=True)
    y = block_sparse_linear(x, values, crow, col, out_features=N)
    y.backward(torch.empty_like(y))


def _inference(block: tuple[int, int], M: int, N: int = 4096, K: int = 4096, dtype: str = "bf16") -> None:
    rows, cols = -(-N // block[0]), -(-K // block[1])
    nnz = rows * cols // 10
    crow, col = torch.linspace(0, nnz, rows + 1).int(), (torch.arange(nnz) % cols).int()
    x, values = torch.empty(M, K, dtype=DTYPES[dtype]), torch.empty(nnz, *block, dtype=DTYPES[dtype])
    block_sparse_linear(x, values, crow, col, out_features=N)


def _topk(groups: int, n: int, weighted: bool = False) -> None:
    scores = torch.zeros(groups, n, requires_grad=True)
    cost = torch.ones(n) if weighted else None
    mask, _ = soft_topk(scores, n / 2, 0.1, cost)
    mask.backward(torch.empty_like(mask))


CASES: dict[str, Callable[[], None]] = {
    "soft_topk 262144x4": partial(_topk, 262144, 4),
    "soft_topk 64x4096": partial(_topk, 64, 4096),
    "soft_topk 1x1000000 cost": partial(_topk, 1, 1_000_000, weighted=True),
    "masked_linear 64x64 bf16": partial(_masked, (64, 64)),
    "masked_linear 128x128 bf16": partial(_masked, (128, 128)),
    "masked_linear 32x32 bf16": partial(_masked, (32, 32)),
    "masked_linear 24x40 bf16": partial(_masked, (24, 40)),
    "masked_linear 1x1 bf16": partial(_masked, (1, 1)),
    "masked_linear 64x64 fp32": partial(_masked, (64, 64), dtype="fp32"),
    "smart_linear 64x64 bf16": partial(_smart, (64, 64)),
    "block_sparse_linear 64x64 bf16": partial(_block, (64, 64)),
    "block_sparse_linear 16x16 bf16": partial(_block, (16, 16)),
    "block_sparse_linear 64x64 fp16": partial(_block, (64, 64), dtype="fp16"),
    "block_sparse_linear 32x32 bf16": partial(_block, (32, 32)),
    "block_sparse_linear 128x8 bf16": partial(_inference, (128, 8), 4096),
    "block_sparse_linear 128x16 bf16": partial(_inference, (128, 16), 4096),
    "block_sparse_linear 24x40 bf16": partial(_inference, (24, 40), 4096),
    "decode 16 rows 64x64 bf16": partial(_inference, (64, 64), 16, N=1024, K=8192),
    "decode 1 row 16x64 bf16": partial(_inference, (16, 64), 1),
    "decode 16 rows 16x16 bf16": partial(_inference, (16, 16), 16),
    "decode 16 rows 128x8 bf16": partial(_inference, (128, 8), 16),
    "decode 16 rows 24x40 bf16": partial(_inference, (24, 40), 16),
    "decode 64 rows 128x128 bf16": partial(_inference, (128, 128), 64),
}
