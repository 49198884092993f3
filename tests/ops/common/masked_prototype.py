"""``masked_linear`` once more, planned: how an op is written on launches that are kept."""

from collections.abc import Callable

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.common.block_matmul import block_matmul_kernel
from smart_kernels.kernels.masked.linear import pack_kernel, weight_grad_kernel
from smart_kernels.kernels.masked.live_blocks import live_blocks_kernel
from smart_kernels.ops.common.arguments import m_class, precision
from smart_kernels.ops.common.axis import Axis
from smart_kernels.ops.common.launch import TENSOR, Launch
from smart_kernels.ops.common.library import define, differentiable
from smart_kernels.ops.common.plan import NOTHING, Planned, buffers
from smart_kernels.ops.masked.checks import check_linear
from smart_kernels.ops.masked.live_blocks import CHUNK, TileMask, cut
from smart_kernels.reference.masked import linear as reference


def masked_linear(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, tile: tuple[int, int]) -> Tensor:
    if torch.compiler.is_compiling():
        check_linear(x, weight, mask, bias, "mask", tile, 0.0)
    else:
        checked((x, weight, mask, NOTHING if bias is None else bias), (tile,))
    return masked(x, weight, mask, bias, *tile)


@Planned
def checked(x, weight, mask, bias, tile):
    check_linear(x, weight, mask, None if bias is NOTHING else bias, "mask", tile, 0.0)
    return nothing


def nothing(*tensors):
    return None


def tensor_or_none(tensor):
    return None if tensor is NOTHING else TENSOR


def list_sizes(n: Axis, k: Axis) -> list[int]:
    """Entries of start, end, order and cols."""
    return [n.blocks] * 3 + [n.blocks * k.blocks]


def lists_launch(mask: Tensor, n: Axis, k: Axis, eps: float) -> Launch:
    tiles = n.tiles_per_block * k.tiles_per_block
    chunk = max(1, min(CHUNK // tiles, triton.next_power_of_2(k.blocks)))
    return Launch(
        live_blocks_kernel, (n.blocks,), TENSOR, None, None, TENSOR, TENSOR, TENSOR,
        n.size, k.size, k.blocks, None, None, *mask.stride(), 0, 0, eps, **cut(n, k), CHUNK=chunk,
    ).reading(0)  # fmt: skip


def pack_launch(weight: Tensor, mask: Tensor, n: Axis, k: Axis, eps: float) -> Launch:
    return Launch(
        pack_kernel, (n.blocks * k.blocks,), TENSOR, TENSOR, None, None, TENSOR, TENSOR, TENSOR, TENSOR,
        *weight.shape, n.blocks, k.blocks, None, None, *weight.stride(), *mask.stride(), 0, 0, eps,
        **cut(n, k), EVEN_N=n.even, EVEN_K=k.even, ROWS=min(1024, triton.next_power_of_2(n.blocks)),
    )  # fmt: skip


def matmul_launch(x: Tensor, bias, n: Axis, k: Axis) -> Launch:
    M, blocks = x.shape[0], n.blocks
    return Launch(
        block_matmul_kernel, lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * blocks,),
        TENSOR, TENSOR, TENSOR, TENSOR, TENSOR, None, TENSOR, None, tensor_or_none(bias), None, TENSOR, None, None,
        M, n.size, k.size, *x.stride(), 0, 0, 0, n.size, m_class(M), blocks,
        STRIDE_WS=n.block * k.block, STRIDE_WN=k.block, STRIDE_WK=1,
        STRIDE_N=n.stride, PARTS_N=n.parts, STRIDE_K=k.stride, PARTS_K=k.parts, EVEN_K=k.even, TMA_FITS=False,
        ACTIVATION=None, PRECISION=precision(), BLOCK_N=n.block, BLOCK_K=k.block,
    )  # fmt: skip


@Planned
def product(x: Tensor, weight: Tensor, mask: Tensor, bias, tile: tuple[int, int], eps: float) -> Callable:
    """``x @ (weight * mask).T + bias``."""
    n, k = TileMask(mask, tile, eps).axes(weight.shape)
    lists, pack, multiply = (
        lists_launch(mask, n, k, eps),
        pack_launch(weight, mask, n, k, eps),
        matmul_launch(x, bias, n, k),
    )
    blocks, out = (n.blocks * k.blocks, n.block, k.block), (x.shape[0], n.size)
    dtype, device = x.dtype, x.device
    empty = buffers(list_sizes(n, k), torch.int32, device)

    def run(x, weight, mask, bias):
        start, end, order, cols = empty()
        packed = torch.empty(blocks, dtype=dtype, device=device)
        y = torch.empty(out, dtype=dtype, device=device)
        lists(mask, start, end, cols)
        pack(weight, mask, end, cols, packed, order)
        if bias is NOTHING:
            multiply(x, packed, start, end, cols, order, y)
        else:
            multiply(x, packed, start, end, cols, order, bias, y)
        return y

    return run


@Planned
def gradients(dy: Tensor, x: Tensor, weight: Tensor, mask: Tensor, tile: tuple[int, int], eps: float) -> Callable:
    """Those of the weight and the mask."""
    (N, K), M, tiles = weight.shape, x.shape[0], TileMask(mask, tile, eps)
    n, k = tiles.axes((N, K))
    parts = n.blocks_per_tile * k.blocks_per_tile
    lists = lists_launch(mask, n, k, eps)
    launch = Launch(
        weight_grad_kernel, (n.blocks * k.blocks,),
        TENSOR, TENSOR, TENSOR, TENSOR, None, None, TENSOR, TENSOR, TENSOR, TENSOR,
        M, N, K, k.blocks, None, None, *dy.stride(), *x.stride(), *weight.stride(), *mask.stride(), 0, 0, eps,
        m_class(M),
        **cut(n, k), PER_TILE_N=n.blocks_per_tile, PER_TILE_K=k.blocks_per_tile, EVEN_N=n.even, EVEN_K=k.even,
        DEAD_GRAD=False, PRECISION=precision(),
    )  # fmt: skip
    device, dtype, shape, mask_shape = x.device, weight.dtype, (N, K), (*mask.shape, parts)
    empty = buffers(list_sizes(n, k), torch.int32, device)

    def run(dy, x, weight, mask):
        start, end, _, cols = empty()
        dweight = torch.zeros(shape, dtype=dtype, device=device)
        dmask = torch.zeros(mask_shape, dtype=torch.float32, device=device)
        lists(mask, start, end, cols)
        launch(dy, x, weight, mask, end, cols, dweight, dmask)
        return dweight, dmask.squeeze(2) if parts == 1 else dmask.sum(2)

    return run


def visible(x, weight, mask, *_):
    return x.dtype != torch.float64


def forward_reference(x, weight, mask, bias, tile_n, tile_k):
    return reference.masked_linear(x, weight, mask, bias, tile_n, tile_k, 0.0, False)


def backward_reference(dy, x, weight, mask, tile_n, tile_k):
    return reference.masked_linear_backward(dy, x, weight, mask, tile_n, tile_k, 0.0, False, True, True)


@define("prototype_masked_linear", reference=forward_reference, visible=visible)
def masked(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, tile_n: int, tile_k: int) -> Tensor:
    return product((x, weight, mask, NOTHING if bias is None else bias), ((tile_n, tile_k), 0.0))


@define("prototype_masked_linear_backward", reference=backward_reference, visible=visible)
def masked_backward(
    dy: Tensor, x: Tensor, weight: Tensor, mask: Tensor, tile_n: int, tile_k: int
) -> tuple[Tensor, Tensor]:
    return gradients((dy, x, weight, mask), ((tile_n, tile_k), 0.0))


def _setup_context(ctx, inputs, output):
    x, weight, mask, _, *ctx.tile = inputs
    ctx.save_for_backward(x, weight, mask)


def _backward(ctx, dy):
    (x, weight, mask), (tile_n, tile_k) = ctx.saved_tensors, ctx.tile
    dx = masked(dy, weight.mT, mask.mT, None, tile_k, tile_n)
    dweight, dmask = masked_backward(dy, x, weight, mask, tile_n, tile_k)
    return dx, dweight, dmask, dy.sum(0) if ctx.needs_input_grad[3] else None, None, None


differentiable(masked, _backward, _setup_context)
