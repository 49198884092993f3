"""Launches that ``masked_linear``, ``smart_linear`` and ``masked_conv2d`` share."""

from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.masked.linear import pack_kernel, weight_grad_kernel
from smart_kernels.ops.common.arguments import m_class, precision
from smart_kernels.ops.common.axis import Axis
from smart_kernels.ops.common.block_matmul import block_matmul
from smart_kernels.ops.common.blocks import BlockMatrix, BlockRows
from smart_kernels.ops.common.epilogue import Epilogue

from .live_blocks import TileMask, cut, live_blocks


def matmul(x: Tensor, weight: Tensor, mask: TileMask, bias: Tensor | None) -> Tensor:
    """Return ``x @ (weight * mask).T + bias``: list the live blocks, pack them and order their rows, multiply."""
    n, k = mask.axes(weight.shape)
    rows = live_blocks(mask, n, k)
    order = torch.empty_like(rows.end)
    packed = pack(weight, mask, rows, n, k, x.dtype, order)
    return block_matmul(x, BlockMatrix(packed, replace(rows, order=order), n, k), Epilogue(bias))


def pack(
    weight: Tensor, mask: TileMask, rows: BlockRows, n: Axis, k: Axis, dtype: torch.dtype, order: Tensor | None = None
) -> Tensor:
    """Store ``weight * mask`` of the listed blocks, each where its entry is.

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


@dataclass(frozen=True)
class Wanted:
    """Which gradients a backward computes.

    Attributes:
        dweight, dmask: whether they are wanted; one that is not comes back empty.
        dead_grad: dmask in dead tiles, too.
    """

    dweight: bool
    dmask: bool
    dead_grad: bool

    @property
    def all_blocks(self) -> bool:
        """Whether blocks without a live tile take part."""
        return self.dead_grad and self.dmask


def weight_grad(dy: Tensor, x: Tensor, weight: Tensor, mask: TileMask, wanted: Wanted) -> tuple[Tensor, Tensor]:
    """Return dweight and dmask, which is dscores if the mask is soft."""
    n, k = mask.axes(weight.shape)
    rows = live_blocks(mask, n, k, wanted.all_blocks)
    dweight, dmask = new_gradients(weight, mask, n, k, wanted)
    weight_grad_kernel[(len(rows.cols),)](
        dy, x, weight, *mask.tensors, rows.end, rows.cols, dweight, dmask,
        len(x), *weight.shape, k.blocks, *mask.groups,
        *dy.stride(), *x.stride(), *weight.stride(), *mask.strides,
        mask.eps, m_class(len(x)),
        **cut(n, k), PER_TILE_N=n.blocks_per_tile, PER_TILE_K=k.blocks_per_tile,
        EVEN_N=n.even, EVEN_K=k.even, DEAD_GRAD=wanted.dead_grad, PRECISION=precision(),
    )  # fmt: skip
    return finished(dweight, dmask, weight, mask)


def new_gradients(
    weight: Tensor, mask: TileMask, n: Axis, k: Axis, wanted: Wanted
) -> tuple[Tensor | None, Tensor | None]:
    """Return zeros for dweight, and for dmask in one part per block of a tile; None where not wanted."""
    parts = n.blocks_per_tile * k.blocks_per_tile
    dmask = mask.values.new_zeros(*mask.values.shape, parts, dtype=torch.float32) if wanted.dmask else None
    return weight.new_zeros(weight.shape) if wanted.dweight else None, dmask


def finished(dweight: Tensor | None, dmask: Tensor | None, weight: Tensor, mask: TileMask) -> tuple[Tensor, Tensor]:
    """Sum the parts of a tile in order, in the dtype of the mask; empty for None, as an operator must return it."""
    if dweight is None:
        dweight = weight.new_empty(0)
    if dmask is None:
        return dweight, mask.values.new_empty(0)
    dmask = dmask.sum(2) if dmask.shape[2] > 1 else dmask.squeeze(2)
    return dweight, dmask.to(mask.values.dtype)
