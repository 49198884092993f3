"""Definition of ``masked_linear``: the linear layer whose weight is scaled, tile by tile, by a mask.

A tile with mask <= eps is dead: its weights are not used, even if NaN, and dweight and dmask are 0 there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.shapes.tiles import expand, reduce_sum


def apply_mask(
    weight: Tensor, mask: Tensor, tile: tuple[int, int], eps: float = 0.0, dead_grad: bool = False
) -> Tensor:
    """Return ``weight * expand(mask)``, 0 in dead tiles; differentiable.

    Args:
        weight: (N, K).
        mask: (ceil(N / tile_n), ceil(K / tile_k)), values in [0, 1].
        tile: (tile_n, tile_k), what one mask value covers.
        eps: tiles with mask <= eps are dead.
        dead_grad: the mask gets its gradient in dead tiles too.

    Returns:
        (N, K), the wider dtype of the two.
    """
    dead = mask <= eps
    unused = weight.detach() if dead_grad else torch.zeros_like(weight)
    weight = torch.where(expand(dead, tile, weight.shape), unused, weight)
    return weight * expand(torch.where(dead, mask - mask.detach(), mask), tile, weight.shape)


def masked_linear(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    tile_n: int,
    tile_k: int,
    eps: float,
    dead_grad: bool,
) -> Tensor:
    """Return ``x @ apply_mask(weight, mask).T + bias``, (M, N) from x (M, K), summed in fp32 or better."""
    wide = torch.promote_types(x.dtype, torch.float32)
    masked = apply_mask(weight.to(wide), mask.to(wide), (tile_n, tile_k), eps)
    return F.linear(x.to(wide), masked, None if bias is None else bias.to(wide)).to(x.dtype)


def masked_linear_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    tile_n: int,
    tile_k: int,
    eps: float,
    dead_grad: bool,
    needs_dweight: bool,
    needs_dmask: bool,
    dbias: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dweight (N, K), dmask (grid) and dbias (N,), of that dtype; what is not needed comes back empty."""
    wide = torch.promote_types(x.dtype, torch.float32)
    grad = dy.to(wide).T @ x.to(wide)
    split = split_gradient(grad, weight, mask, (tile_n, tile_k), eps, dead_grad, needs_dweight, needs_dmask)
    return *split, dy.new_empty(0) if dbias is None else dy.sum(0, dtype=dbias)


def split_gradient(
    grad: Tensor,
    weight: Tensor,
    mask: Tensor,
    tile: tuple[int, int],
    eps: float,
    dead_grad: bool,
    needs_dweight: bool,
    needs_dmask: bool,
) -> tuple[Tensor, Tensor]:
    """Split the (N, K) gradient of the product ``weight * mask`` into dweight and dmask."""
    dead = mask <= eps
    dweight = weight.new_empty(0)
    dmask = mask.new_empty(0)
    if needs_dweight:
        factor = expand(mask.to(grad.dtype).masked_fill(dead, 0), tile, weight.shape)
        dweight = (grad * factor).to(weight.dtype).contiguous()
    if needs_dmask:
        dmask = reduce_sum(grad * weight, tile)
        dmask = (dmask if dead_grad else dmask.masked_fill(dead, 0)).to(mask.dtype)
    return dweight, dmask
