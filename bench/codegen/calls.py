"""Public calls for the census, forward and backward, on tensors of which only shapes and dtypes matter.

Convolutions are in ``convs``.
"""

import math
from collections.abc import Callable

import torch

from smart_kernels.ops import (
    block_sparse_linear,
    masked_linear,
    semi_structured_linear,
    semi_structured_prune,
    smart_linear,
    smart_weight,
    soft_topk,
)
from smart_kernels.ops.block_sparse import block_index
from smart_kernels.ops.masked import GroupedBlocks, GroupedLayer, prepared_linear
from smart_kernels.ops.tensor_core import kept, turned

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def _linear(M: int, N: int, K: int, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.empty(M, K, dtype=DTYPES[dtype], requires_grad=True)
    return x, torch.empty(N, K, dtype=DTYPES[dtype], requires_grad=True)


def indices(rows: int, cols: int, nnz: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return crow_indices and col_indices of ``nnz`` blocks, spread evenly over the rows."""
    return torch.linspace(0, nnz, rows + 1).int(), (torch.arange(nnz) % cols).int()


def masked(tile: tuple[int, int], M: int = 4096, N: int = 1024, K: int = 1024, dtype: str = "bf16", **flags) -> None:
    """Call masked_linear."""
    x, weight = _linear(M, N, K, dtype)
    mask = torch.zeros(-(-N // tile[0]), -(-K // tile[1]), requires_grad=True)
    y = masked_linear(x, weight, mask, tile=tile, **flags)
    y.backward(torch.empty_like(y))


def prepared(tile: tuple[int, int], M: int = 4096, N: int = 1024, K: int = 1024, dtype: str = "bf16") -> None:
    """Prepare the blocks of two layers, fp32 weights for products in ``dtype``, and call prepared_linear with bias."""
    shape = -(-N // tile[0]), -(-K // tile[1])
    weight = torch.empty(N, K, requires_grad=True)
    layers = [GroupedLayer((N, K), tile, first * math.prod(shape), 1e-3, weight.dtype) for first in range(2)]
    group = GroupedBlocks(layers, weight.device)
    masks = torch.zeros(2 * math.prod(shape))
    indices = group.listed(masks)
    weights = [weight.detach()] * 2
    packed = group.packed(weights, masks, DTYPES[dtype], indices)
    group.packed(weights, masks, DTYPES[dtype], None)
    x = torch.empty(M, K, dtype=DTYPES[dtype], requires_grad=True)
    mask = masks[: math.prod(shape)].view(shape).requires_grad_()
    bias = torch.empty(N, requires_grad=True)
    y = prepared_linear(x, weight, mask, bias, packed[0], indices[0], tile=tile, eps=1e-3)
    y.backward(torch.empty_like(y))


def smart(tile: tuple[int, int], M: int = 4096, N: int = 1024, K: int = 1024, dtype: str = "bf16") -> None:
    """Call smart_linear."""
    x, weight = _linear(M, N, K, dtype)
    scores = torch.zeros(-(-N // tile[0]), -(-K // tile[1]), requires_grad=True)
    threshold = torch.zeros((), dtype=torch.float64, requires_grad=True)
    y = smart_linear(x, weight, scores, threshold, 0.1, tile=tile)
    y.backward(torch.empty_like(y))


def blocks(
    block: tuple[int, int], M: int = 4096, N: int = 1024, K: int = 1024, dtype: str = "bf16", **epilogue
) -> None:
    """Call block_sparse_linear to train; with an epilogue to infer, too."""
    rows = -(-N // block[0])
    cols = -(-K // block[1])
    nnz = rows * cols // 4
    crow, col = indices(rows, cols, nnz)
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


def tf32(case: Callable[[], None]) -> None:
    """Run a case with fp32 products rounded to tf32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        case()
    finally:
        torch.set_float32_matmul_precision(before)


def inference(
    block: tuple[int, int],
    M: int,
    N: int = 4096,
    K: int = 4096,
    dtype: str = "bf16",
    activation: str | None = None,
) -> None:
    """Call block_sparse_linear with a tenth of the blocks, without gradients; with a bias before an activation."""
    rows = -(-N // block[0])
    cols = -(-K // block[1])
    nnz = rows * cols // 10
    crow, col = indices(rows, cols, nnz)
    x = torch.empty(M, K, dtype=DTYPES[dtype])
    values = torch.empty(nnz, *block, dtype=DTYPES[dtype])
    bias = torch.empty(N, dtype=x.dtype) if activation else None
    block_sparse_linear(x, values, crow, col, bias, out_features=N, activation=activation)


def fp8(block: tuple[int, int], per_block: bool, M: int = 4096, N: int = 4096, K: int = 4096) -> None:
    """Call block_sparse_linear in float8, scaled per block or per tensor."""
    rows = N // block[0]
    cols = K // block[1]
    nnz = rows * cols // 10
    crow, col = indices(rows, cols, nnz)
    x, values = (torch.empty(shape, dtype=torch.float8_e4m3fn) for shape in ((M, K), (nnz, *block)))
    block_sparse_linear(x, values, crow, col, out_features=N, scale=torch.ones((nnz,) if per_block else ()))


def semi(M: int, group: tuple[int, int] = (2, 4), dtype: str = "bf16", **flags) -> None:
    """Call semi_structured_linear; ``group`` is (n, m)."""
    N = K = 4096
    n, m = group
    x = torch.empty(M, K, dtype=DTYPES[dtype])
    values = torch.empty(N, K // m * n, dtype=DTYPES[dtype])
    indices = torch.zeros(N, K // m * n * (m - 1).bit_length() // 8, dtype=torch.uint8)
    y = semi_structured_linear(x.requires_grad_(), values, indices, n=n, m=m, **flags)
    y.backward(torch.empty_like(y))


def prune(dtype: str, scored: bool = False) -> None:
    """Call semi_structured_prune, one way and both ways."""
    weight = torch.empty(4096, 4096, dtype=DTYPES[dtype])
    scores = torch.empty(4096, 4096) if scored else None
    for transposable in (False, True):
        semi_structured_prune(weight, scores, transposable=transposable)


def gather(kernel: str, dtype: str = "bf16") -> None:
    """Gather the values of a 2:4 weight and of its transpose."""
    metadata = torch.zeros(64, 64, 4, 32, dtype=torch.int32)
    dense = torch.empty(4096, 4096, dtype=DTYPES[dtype])
    turned(kept(dense, metadata, kernel), metadata, metadata, kernel, 4096, 4096)


def soft_weight(m: int, hard: bool = False) -> None:
    """Call smart_weight."""
    weight = torch.empty(1024, 1024, requires_grad=True)
    scores = torch.zeros(1024, 1024, requires_grad=True)
    y = smart_weight(weight, scores, 2, m, 0.1, eps=1e-3, hard=hard)
    y.backward(torch.empty_like(y))


def topk_of_layers(*sizes: int) -> None:
    """Call soft_topk for groups of different sizes."""
    scores = torch.zeros(sum(sizes), requires_grad=True)
    mask, _ = soft_topk(scores, sum(sizes) / (2 * len(sizes)), 0.1, sizes=sizes)
    mask.backward(torch.empty_like(mask))


def topk(groups: int, n: int, weighted: bool = False) -> None:
    """Call soft_topk."""
    scores = torch.zeros(groups, n, requires_grad=True)
    cost = torch.ones(n) if weighted else None
    mask, _ = soft_topk(scores, n / 2, 0.1, cost)
    mask.backward(torch.empty_like(mask))
