"""The cases of the census: each is one public call, forward and backward, so every kernel behind it is compiled."""

from collections.abc import Callable
from functools import partial

import torch

from smart_kernels.ops import (
    block_sparse_conv1d,
    block_sparse_conv2d,
    block_sparse_linear,
    masked_conv2d,
    masked_linear,
    semi_structured_conv2d,
    semi_structured_linear,
    semi_structured_prune,
    smart_linear,
    smart_weight,
    soft_topk,
)
from smart_kernels.ops.block_sparse import block_index
from smart_kernels.ops.common import decode_words
from smart_kernels.ops.tensor_core import kept, turned

from . import sparse

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def _linear(M: int, N: int, K: int, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.empty(M, K, dtype=DTYPES[dtype], requires_grad=True)
    return x, torch.empty(N, K, dtype=DTYPES[dtype], requires_grad=True)


def _indices(rows: int, cols: int, nnz: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return crow_indices and col_indices of ``nnz`` blocks, spread evenly over the rows."""
    return torch.linspace(0, nnz, rows + 1).int(), (torch.arange(nnz) % cols).int()


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


def _block(
    block: tuple[int, int], M: int = 4096, N: int = 1024, K: int = 1024, dtype: str = "bf16", **epilogue
) -> None:
    rows = -(-N // block[0])
    cols = -(-K // block[1])
    nnz = rows * cols // 4
    crow, col = _indices(rows, cols, nnz)
    values = torch.empty(nnz, *block, dtype=DTYPES[dtype], requires_grad=True)
    x = torch.empty(M, K, dtype=DTYPES[dtype], requires_grad=True)
    index = block_index(crow, col, cols)
    y = block_sparse_linear(x, values, crow, col, out_features=N, index=index)
    y.backward(torch.empty_like(y))
    if epilogue:
        bias = torch.empty(N, dtype=x.dtype)
        residual = torch.empty(M, N)
        with torch.no_grad():
            block_sparse_linear(x, values, crow, col, bias, out_features=N, index=index, residual=residual, **epilogue)


def _tf32(case: Callable[[], None]) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        case()
    finally:
        torch.set_float32_matmul_precision(before)


def _inference(block: tuple[int, int], M: int, N: int = 4096, K: int = 4096, dtype: str = "bf16") -> None:
    rows = -(-N // block[0])
    cols = -(-K // block[1])
    nnz = rows * cols // 10
    crow, col = _indices(rows, cols, nnz)
    x = torch.empty(M, K, dtype=DTYPES[dtype])
    values = torch.empty(nnz, *block, dtype=DTYPES[dtype])
    block_sparse_linear(x, values, crow, col, out_features=N)


def _fp8(block: tuple[int, int], per_block: bool, M: int = 4096, N: int = 4096, K: int = 4096) -> None:
    rows = N // block[0]
    cols = K // block[1]
    nnz = rows * cols // 10
    crow, col = _indices(rows, cols, nnz)
    x, values = (torch.empty(shape, dtype=torch.float8_e4m3fn) for shape in ((M, K), (nnz, *block)))
    block_sparse_linear(x, values, crow, col, out_features=N, scale=torch.ones((nnz,) if per_block else ()))


def _semi(M: int, group: tuple[int, int] = (2, 4), few_rows: bool = False, dtype: str = "bf16", **flags) -> None:
    N = K = 4096
    n, m = group
    x = torch.empty(M, K, dtype=DTYPES[dtype])
    values = torch.empty(N, K // m * n, dtype=DTYPES[dtype])
    indices = torch.zeros(N, K // m * n * (m - 1).bit_length() // 8, dtype=torch.uint8)
    if few_rows:
        semi_structured_linear(x, values, decode_words(indices, K))
        return
    y = semi_structured_linear(x.requires_grad_(), values, indices, n=n, m=m, **flags)
    y.backward(torch.empty_like(y))


def _semi_conv(
    group: tuple[int, int] = (2, 4), channels: int = 256, padding: int = 1, stride: int = 1, dtype: str = "bf16"
) -> None:
    n, m = group
    stored = 9 * channels // m * n
    x = torch.empty(32, channels, 28, 28, dtype=DTYPES[dtype])
    values = torch.empty(256, stored, dtype=DTYPES[dtype])
    indices = torch.zeros(256, stored * (m - 1).bit_length() // 8, dtype=torch.uint8)
    settings = {"kernel_size": 3, "padding": padding, "stride": stride, "n": n, "m": m}
    y = semi_structured_conv2d(x, values, indices, **settings)
    semi_structured_conv2d(x, values, indices, values.new_empty(256), **settings, activation="relu", residual=y)


def _prune(dtype: str, scored: bool = False) -> None:
    weight = torch.empty(4096, 4096, dtype=DTYPES[dtype])
    scores = torch.empty(4096, 4096) if scored else None
    for transposable in (False, True):
        semi_structured_prune(weight, scores, transposable=transposable)


def _gather(kernel: str, dtype: str = "bf16") -> None:
    metadata = torch.zeros(64, 64, 4, 32, dtype=torch.int32)
    dense = torch.empty(4096, 4096, dtype=DTYPES[dtype])
    turned(kept(dense, metadata, kernel), metadata, metadata, kernel, 4096, 4096)


def _weight(m: int, hard: bool = False) -> None:
    weight = torch.empty(1024, 1024, requires_grad=True)
    scores = torch.zeros(1024, 1024, requires_grad=True)
    y = smart_weight(weight, scores, 2, m, 0.1, eps=1e-3, hard=hard)
    y.backward(torch.empty_like(y))


def _conv(tile: tuple[int, int], padding: int = 1, stride: int = 1, channels: int = 256, dtype: str = "bf16") -> None:
    rows = channels // tile[0]
    cols = 9 * channels // tile[1]
    nnz = rows * cols // 4
    crow, col = _indices(rows, cols, nnz)
    values = torch.empty(nnz, *tile, dtype=DTYPES[dtype], requires_grad=True)
    x = torch.empty(32, channels, 28, 28, dtype=DTYPES[dtype], requires_grad=True)
    geometry = {"kernel_size": 3, "stride": stride, "padding": padding, "out_channels": channels}
    y = block_sparse_conv2d(x, values, crow, col, **geometry)
    y.backward(torch.empty_like(y))
    bias = values.new_empty(channels)
    with torch.no_grad():
        block_sparse_conv2d(x, values, crow, col, bias, **geometry, activation="relu", residual=y)


def _conv1d(tile: tuple[int, int], channels: int = 64) -> None:
    """Convolve images of height 1, a size that is compiled in."""
    rows = channels // tile[0]
    cols = 3 * channels // tile[1]
    crow = (torch.arange(rows + 1) * cols).int()
    col = torch.arange(rows * cols).remainder(cols).int()
    x = torch.empty(32, channels, 512, dtype=torch.bfloat16, requires_grad=True)
    values = torch.empty(rows * cols, *tile, dtype=torch.bfloat16, requires_grad=True)
    y = block_sparse_conv1d(x, values, crow, col, kernel_size=3, padding=1, out_channels=channels)
    y.backward(torch.empty_like(y))


def _masked_conv(tile: tuple[int, int], channels: int = 256, dtype: str = "bf16") -> None:
    x = torch.empty(32, channels, 28, 28, dtype=DTYPES[dtype], requires_grad=True)
    weight = torch.empty(channels, channels, 3, 3, dtype=DTYPES[dtype], requires_grad=True)
    mask = torch.zeros(channels // tile[0], 9 * channels // tile[1], requires_grad=True)
    y = masked_conv2d(x, weight, mask, tile=tile, padding=1)
    y.backward(torch.empty_like(y))


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
    "masked_linear 64x64 fp32 as tf32": partial(_tf32, partial(_masked, (64, 64), dtype="fp32")),
    "smart_linear 64x64 bf16": partial(_smart, (64, 64)),
    "smart_linear 1x1 bf16": partial(_smart, (1, 1)),
    "block_sparse_linear 64x64 bf16": partial(_block, (64, 64)),
    "block_sparse_linear 128x128 bf16": partial(_block, (128, 128), activation="gelu"),
    "block_sparse_linear 256x128 bf16": partial(_block, (256, 128), activation="silu", out_dtype=torch.float32),
    "block_sparse_linear 16x16 bf16": partial(_block, (16, 16)),
    "block_sparse_linear 64x64 fp16": partial(_block, (64, 64), dtype="fp16"),
    "block_sparse_linear 128x128 fp32": partial(_block, (128, 128), dtype="fp32"),
    "block_sparse_linear 32x32 bf16": partial(_block, (32, 32)),
    "block_sparse_linear 128x8 bf16": partial(_inference, (128, 8), 4096),
    "block_sparse_linear 128x16 bf16": partial(_inference, (128, 16), 4096),
    "block_sparse_linear 128x128 fp8": partial(_fp8, (128, 128), per_block=False),
    "block_sparse_linear 64x64 fp8 per block": partial(_fp8, (64, 64), per_block=True),
    "block_sparse_linear 24x40 bf16": partial(_inference, (24, 40), 4096),
    "decode 16 rows 64x64 bf16": partial(_inference, (64, 64), 16, N=1024, K=8192),
    "decode 1 row 16x64 bf16": partial(_inference, (16, 64), 1),
    "decode 16 rows 16x16 bf16": partial(_inference, (16, 16), 16),
    "decode 16 rows 128x8 bf16": partial(_inference, (128, 8), 16),
    "decode 16 rows 24x40 bf16": partial(_inference, (24, 40), 16),
    "decode 64 rows 128x128 bf16": partial(_inference, (128, 128), 64),
    "semi_structured_linear 2:4 M=16 bf16": partial(_semi, 16, few_rows=True),
    "semi_structured_linear 2:4 M=64 fp16": partial(_semi, 64, few_rows=True, dtype="fp16"),
    "semi_structured_linear 2:4 M=4096 bf16": partial(_semi, 4096, transposable=True),
    "semi_structured_linear 4:8 M=4096 bf16": partial(_semi, 4096, (4, 8)),
    "semi_structured_prune bf16": partial(_prune, "bf16"),
    "semi_structured_prune fp32 scores": partial(_prune, "fp32", scored=True),
    "sparse_tensor gather bf16": partial(_gather, "mma"),
    "sparse_tensor gather rows bf16": partial(_gather, "wgmma_ss"),
    "smart_weight 2:4": partial(_weight, 4),
    "smart_weight 2:8 hard": partial(_weight, 8, hard=True),
    "block_sparse_conv2d 128x64 bf16": partial(_conv, (128, 64)),
    "block_sparse_conv2d 128x64 interior bf16": partial(_conv, (128, 64), padding=0),
    "block_sparse_conv2d 128x128 bf16": partial(_conv, (128, 128)),
    "block_sparse_conv2d 64x64 stride 2 bf16": partial(_conv, (64, 64), stride=2),
    "block_sparse_conv2d 32x32 bf16": partial(_conv, (32, 32)),
    "block_sparse_conv1d 32x32 bf16": partial(_conv1d, (32, 32)),
    "semi_structured_conv2d 2:4 bf16": _semi_conv,
    "semi_structured_conv2d 2:4 interior stride 2 fp16": partial(_semi_conv, padding=0, stride=2, dtype="fp16"),
    "semi_structured_conv2d 4:8 bf16": partial(_semi_conv, (4, 8)),
    "semi_structured_conv2d 2:4 40 channels bf16": partial(_semi_conv, channels=40),
    "semi_structured_conv2d 2:4 fp32": partial(_semi_conv, dtype="fp32"),
    "semi_structured_conv2d 2:4 fp32 as tf32": partial(_tf32, partial(_semi_conv, dtype="fp32")),
    "masked_conv2d 128x64 bf16": partial(_masked_conv, (128, 64)),
    "masked_conv2d 32x32 bf16": partial(_masked_conv, (32, 32)),
}
CASES |= sparse.CASES
