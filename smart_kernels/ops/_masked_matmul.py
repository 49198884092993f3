"""The launches that ``masked_linear`` and ``smart_linear`` share."""

from dataclasses import replace

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.masked_linear import pack_kernel, weight_grad_kernel
from smart_kernels.ops._live_blocks import TileMask, cut, live_blocks
from smart_kernels.ops._matmul import block_matmul, m_class, precision


def matmul(x: Tensor, weight: Tensor, mask: TileMask, bias: Tensor | None) -> Tensor:
    """``x @ (weight * mask).T + bias``: list the live blocks, pack them and order their rows, multiply."""
    n, k = mask.axes(weight.shape)
    rows = live_blocks(mask, n, k)
    rows = replace(rows, order=torch.empty_like(rows.end))
    packed = x.new_empty(n.blocks * k.blocks, n.block, k.block)
    pack_kernel[(len(packed),)](
        weight, *mask.tensors, rows.end, rows.cols, packed, rows.order,
        *weight.shape, n.blocks, k.blocks, *mask.groups,
        *weight.stride(), *mask.strides,
        mask.eps,
        **cut(n, k), EVEN_N=n.even, EVEN_K=k.even, ROWS=min(1024, triton.next_power_of_2(n.blocks)),
    )  # fmt: skip
    return block_matmul(x, packed, rows, bias, n, k)


def weight_grad(
    dy: Tensor, x: Tensor, weight: Tensor, mask: TileMask, dead_grad: bool, needs_dweight: bool, needs_dmask: bool
) -> tuple[Tensor, Tensor]:
    """dweight and dmask (dscores if the mask is soft); a gradient that is not needed comes back empty."""
    (N, K), (M, _) = weight.shape, x.shape
    n, k = mask.axes((N, K))
    rows = live_blocks(mask, n, k, all_blocks=dead_grad and needs_dmask)
    dweight = weight.new_zeros(N, K) if needs_dweight else None
    parts = n.blocks_per_tile * k.blocks_per_tile
    dmask = mask.values.new_zeros(*mask.values.shape, parts, dtype=torch.float32) if needs_dmask else None
    weight_grad_kernel[(len(rows.cols),)](
        dy, x, weight, *mask.tensors, rows.end, rows.cols, dweight, dmask,
        M, N, K, k.blocks, *mask.groups,
        *dy.stride(), *x.stride(), *weight.stride(), *mask.strides,
        mask.eps, m_class(M),
        **cut(n, k), PER_TILE_N=n.blocks_per_tile, PER_TILE_K=k.blocks_per_tile,
        EVEN_N=n.even, EVEN_K=k.even, DEAD_GRAD=dead_grad, PRECISION=precision(),
    )  # fmt: skip
    if dweight is None:
        dweight = weight.new_empty(0)
    if dmask is None:
        return dweight, mask.values.new_empty(0)
    # the second pass: parts of a tile in order
    dmask = dmask.sum(2) if parts > 1 else dmask.squeeze(2)
    return dweight, dmask.to(mask.values.dtype)
