"""The launches that ``masked_linear`` and ``smart_linear`` share."""

from dataclasses import replace

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.masked.linear import pack_kernel, weight_grad_kernel
from smart_kernels.ops.common.axis import Axis
from smart_kernels.ops.common.block_matmul import BlockRows, block_matmul
from smart_kernels.ops.common.launch import m_class, precision

from .live_blocks import TileMask, cut, live_blocks


def matmul(x: Tensor, weight: Tensor, mask: TileMask, bias: Tensor | None) -> Tensor:
    """``x @ (weight * mask).T + bias``: list the live blocks, pack them and order their rows, multiply."""
    n, k = mask.axes(weight.shape)
    rows = live_blocks(mask, n, k)
    order = torch.empty_like(rows.end)
    packed = pack(weight, mask, rows, n, k, x.dtype, order)
    return block_matmul(x, packed, replace(rows, order=order), bias, n, k)


def pack(
    weight: Tensor, mask: TileMask, rows: BlockRows, n: Axis, k: Axis, dtype: torch.dtype, order: Tensor | None = None
) -> Tensor:
    """``weight * mask`` of the listed blocks, each where its entry is.

    Args:
        order: (n.blocks,) int32, gets the rows by falling length; None where nobody wants them.

    Returns:
        (n.blocks * k.blocks, n.block, k.block).
    """
    packed = weight.new_empty(n.blocks * k.blocks, n.block, k.block, dtype=dtype)
    pack_kernel[(len(packed),)](
        weight, *mask.tensors, rows.end, rows.cols, packed, order,
        *weight.shape, n.blocks, k.blocks, *mask.groups,
        *weight.stride(), *mask.strides,
        mask.eps,
        **cut(n, k), EVEN_N=n.even, EVEN_K=k.even, ROWS=min(1024, triton.next_power_of_2(n.blocks)),
    )  # fmt: skip
    return packed


def weight_grad(
    dy: Tensor, x: Tensor, weight: Tensor, mask: TileMask, dead_grad: bool, needs_dweight: bool, needs_dmask: bool
) -> tuple[Tensor, Tensor]:
    """dweight and dmask (dscores if the mask is soft); a gradient that is not needed comes back empty."""
    (N, K), (M, _) = weight.shape, x.shape
    n, k = mask.axes((N, K))
    rows = live_blocks(mask, n, k, all_blocks=dead_grad and needs_dmask)
    dweight, dmask = new_gradients(weight, mask, n, k, needs_dweight, needs_dmask)
    weight_grad_kernel[(len(rows.cols),)](
        dy, x, weight, *mask.tensors, rows.end, rows.cols, dweight, dmask,
        M, N, K, k.blocks, *mask.groups,
        *dy.stride(), *x.stride(), *weight.stride(), *mask.strides,
        mask.eps, m_class(M),
        **cut(n, k), PER_TILE_N=n.blocks_per_tile, PER_TILE_K=k.blocks_per_tile,
        EVEN_N=n.even, EVEN_K=k.even, DEAD_GRAD=dead_grad, PRECISION=precision(),
    )  # fmt: skip
    return finished(dweight, dmask, weight, mask)


def new_gradients(
    weight: Tensor, mask: TileMask, n: Axis, k: Axis, needs_dweight: bool, needs_dmask: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Zeros for dweight, and for dmask in one part per block of a tile; None where not needed."""
    parts = n.blocks_per_tile * k.blocks_per_tile
    dmask = mask.values.new_zeros(*mask.values.shape, parts, dtype=torch.float32) if needs_dmask else None
    return weight.new_zeros(weight.shape) if needs_dweight else None, dmask


def finished(dweight: Tensor | None, dmask: Tensor | None, weight: Tensor, mask: TileMask) -> tuple[Tensor, Tensor]:
    """What an operator returns: the parts of a tile summed in order, the mask's dtype, empty where not needed."""
    if dweight is None:
        dweight = weight.new_empty(0)
    if dmask is None:
        return dweight, mask.values.new_empty(0)
    dmask = dmask.sum(2) if dmask.shape[2] > 1 else dmask.squeeze(2)
    return dweight, dmask.to(mask.values.dtype)
