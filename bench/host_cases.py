"""The calls whose cost on the host is counted: every public op, small; layers are in ``host_layers``."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels import ops
from smart_kernels.ops.block_sparse import block_index, conv_index
from smart_kernels.ops.tensor_core import matmul as tensor_core_matmul
from smart_kernels.ops.tensor_core import pack

from . import host_layers
from .host_layers import DTYPE, TILE, HostCase, K, M, N, leaf


def cases() -> Iterator[HostCase]:
    """All of them, ``F.linear`` first."""
    yield HostCase("F.linear", _dense)
    yield from _ops()
    yield from host_layers.cases()


def _ops() -> Iterator[HostCase]:
    yield HostCase("block_sparse_linear", _block)
    yield HostCase("block_sparse_linear, 1 row", partial(_block, rows=1))
    yield HostCase("block_sparse_linear, 256 rows", partial(_block, rows=256))
    yield HostCase("block_sparse_linear, 256 rows, tile 64x64", partial(_block, rows=256, tile=(64, 64)))
    yield HostCase("block_sparse_linear, fp8", _fp8, ("fwd",))
    yield HostCase("block_sparse_conv2d", partial(_block_conv, ops.block_sparse_conv2d))
    yield HostCase("block_sparse_conv2d, index", partial(_block_conv, ops.block_sparse_conv2d, indexed=True))
    yield HostCase("block_sparse_conv1d", _block_conv1d)
    yield HostCase("block_sparse_conv_transpose2d", partial(_block_conv, ops.block_sparse_conv_transpose2d))
    indexed = partial(_block_conv, ops.block_sparse_conv_transpose2d, indexed=True)
    yield HostCase("block_sparse_conv_transpose2d, index", indexed)
    yield HostCase("masked_linear", _masked)
    yield HostCase("masked_linear, tile 128x128", partial(_masked, tile=(128, 128)))
    yield HostCase("masked_conv2d", _masked_conv)
    yield HostCase("smart_linear", _smart)
    yield HostCase("soft_topk", partial(_topk, 64))
    yield HostCase("soft_topk, large", partial(_topk, 8192))
    yield HostCase("smart_weight", _weight)
    yield HostCase("semi_structured_linear", _semi)
    yield HostCase("semi_structured_conv2d", _semi_conv, ("fwd",))
    yield HostCase("semi_structured_prune", _prune, ("fwd",))
    yield HostCase("quantized_semi_structured_linear", _quantized, ("fwd",))
    for kernel in ("mma", "wgmma_rs", "wgmma_ss"):
        yield HostCase(f"2:4 on sparse tensor cores, {kernel}", partial(_tensor_core, kernel), ("fwd",))


def _dense():
    args = leaf(M, K), leaf(N, K), leaf(N)
    return lambda: F.linear(*args), list(args)


def _indices(rows: int, cols: int, stored: int) -> tuple[Tensor, Tensor]:
    return torch.linspace(0, stored, rows + 1).int(), (torch.arange(stored) % cols).int()


def _block(rows: int = M, tile: tuple[int, int] = TILE):
    stored = N * K // (2 * tile[0] * tile[1])
    crow, col = _indices(N // tile[0], K // tile[1], stored)
    x, values, bias = leaf(rows, K), leaf(stored, *tile), leaf(N)
    index = block_index(crow, col, K // tile[1])
    call = partial(ops.block_sparse_linear, x, values, crow, col, bias, out_features=N, index=index)
    return call, [x, values, bias]


def _fp8():
    x, values = (torch.zeros(shape, dtype=torch.float8_e4m3fn) for shape in ((M, K), (32, *TILE)))
    crow, col = _indices(N // TILE[0], K // TILE[1], 32)
    return partial(ops.block_sparse_linear, x, values, crow, col, out_features=N, scale=torch.ones(())), []


def _block_conv(op: Callable, indexed: bool = False):
    indices = _indices(64 // TILE[0], 9 * 64 // TILE[1], 16)
    x, values = leaf(2, 64, 8, 8), leaf(16, *TILE)
    index = conv_index(*indices, TILE, (64, 64), kernel_size=3, padding=1) if indexed else None
    return partial(op, x, values, *indices, kernel_size=3, padding=1, out_channels=64, index=index), [x, values]


def _block_conv1d():
    x, values, indices = leaf(2, 64, 64), leaf(8, *TILE), _indices(64 // TILE[0], 3 * 64 // TILE[1], 8)
    return partial(ops.block_sparse_conv1d, x, values, *indices, kernel_size=3, padding=1, out_channels=64), [x, values]


def _masked(tile: tuple[int, int] = TILE):
    x, weight, bias = leaf(M, K), leaf(N, K, dtype=torch.float32), leaf(N)
    mask = torch.rand(N // tile[0], K // tile[1]).requires_grad_()
    return partial(ops.masked_linear, x, weight, mask, bias, tile=tile), [x, weight, mask, bias]


def _masked_conv():
    x, weight = leaf(2, 64, 8, 8), leaf(64, 64, 3, 3)
    mask = torch.rand(64 // TILE[0], 9 * 64 // TILE[1]).requires_grad_()
    return partial(ops.masked_conv2d, x, weight, mask, tile=TILE, padding=1), [x, weight, mask]


def _smart():
    x, weight, scores = leaf(M, K), leaf(N, K, dtype=torch.float32), leaf(8, 8, dtype=torch.float32)
    threshold = torch.zeros((), dtype=torch.float64).requires_grad_()
    return partial(ops.smart_linear, x, weight, scores, threshold, 0.1, tile=TILE), [x, weight, scores, threshold]


def _topk(n: int):
    scores = leaf(4, n, dtype=torch.float32)
    return lambda: ops.soft_topk(scores, n / 2, 0.1)[0], [scores]


def _weight():
    weight, scores = (leaf(N, K, dtype=torch.float32) for _ in range(2))
    return partial(ops.smart_weight, weight, scores, 2, 4, 0.1), [weight, scores]


def _half(N: int, K: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(N, K // 2, dtype=DTYPE), torch.full((N, K // 8), 0x44, dtype=torch.uint8)


def _semi():
    values, indices = _half(N, K)
    x, values = leaf(M, K), values.requires_grad_()
    return partial(ops.semi_structured_linear, x, values, indices), [x, values]


def _semi_conv():
    x = torch.zeros(2, 64, 8, 8, dtype=DTYPE)
    return partial(ops.semi_structured_conv2d, x, *_half(64, 9 * 64), kernel_size=3, padding=1), []


def _prune():
    return lambda: ops.semi_structured_prune(torch.zeros(N, K))[0], []


def _tensor_core(kernel: str):
    packed = pack(*_half(N, K), kernel)
    return partial(tensor_core_matmul, torch.zeros(M, K, dtype=DTYPE), packed), []


def _quantized():
    values, indices = _half(N, K)
    packed = ops.quantized_semi_structured_pack(values.to(torch.int8), indices)
    x = torch.zeros(M, K, dtype=torch.int8)
    return partial(ops.quantized_semi_structured_linear, x, packed, torch.ones(())), []
