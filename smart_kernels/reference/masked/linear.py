"""The masked linear layer in plain torch, with the mask stored (``masked_linear``) or soft (``smart_linear``).

A tile with mask <= eps is dead: its weights are not used, even if NaN, and dweight and dmask are 0 there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.reference.topk.soft_topk import soft_mask
from smart_kernels.shapes.tiles import expand, reduce_sum


def apply_mask(
    weight: Tensor, mask: Tensor, tile: tuple[int, int], eps: float = 0.0, dead_grad: bool = False
) -> Tensor:
    """``weight * expand(mask)``, 0 in dead tiles; differentiable.

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
    """x (M, K) -> (M, N): ``x @ apply_mask(weight, mask).T + bias``, summed in fp32 or better."""
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
) -> tuple[Tensor, Tensor]:
    """dweight (N, K) and dmask (grid); a gradient that is not needed comes back empty."""
    wide = torch.promote_types(x.dtype, torch.float32)
    grad = dy.to(wide).T @ x.to(wide)
    return split_gradient(grad, weight, mask, (tile_n, tile_k), eps, dead_grad, needs_dweight, needs_dmask)


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
    """dweight and dmask from the (N, K) gradient of the product ``weight * mask``."""
    dead = mask <= eps
    dweight, dmask = weight.new_empty(0), mask.new_empty(0)
    if needs_dweight:
        factor = expand(mask.to(grad.dtype).masked_fill(dead, 0), tile, weight.shape)
        dweight = (grad * factor).to(weight.dtype).contiguous()
    if needs_dmask:
        dmask = reduce_sum(grad * weight, tile)
        dmask = (dmask if dead_grad else dmask.masked_fill(dead, 0)).to(mask.dtype)
    return dweight, dmask


def smart_linear(
    x: Tensor,
    weight: Tensor,
    scores: Tensor,
    threshold: Tensor,
    temperature: Tensor,
    bias: Tensor | None,
    tile_n: int,
    tile_k: int,
    group_n: int,
    group_k: int,
    eps: float,
    dead_grad: bool,
) -> Tensor:
    """``masked_linear`` with ``mask = soft_mask(scores, threshold of the group, temperature)``."""
    mask = soft_mask(scores, expand(threshold, (group_n, group_k), scores.shape), temperature)
    return masked_linear(x, weight, mask, bias, tile_n, tile_k, eps, dead_grad)


def smart_linear_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    scores: Tensor,
    threshold: Tensor,
    temperature: Tensor,
    tile_n: int,
    tile_k: int,
    group_n: int,
    group_k: int,
    eps: float,
    dead_grad: bool,
    needs_dweight: bool,
    needs_dscores: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """dweight (N, K), dscores (grid) and dthreshold (one per group)."""
    mask = soft_mask(scores, expand(threshold, (group_n, group_k), scores.shape), temperature)
    dweight, dmask = masked_linear_backward(
        dy, x, weight, mask, tile_n, tile_k, eps, dead_grad, needs_dweight, needs_dscores
    )
    if not needs_dscores:
        return dweight, scores.new_empty(0), threshold.new_empty(0)
    dscores = (mask * (1 - mask) * dmask / temperature).to(scores.dtype)
    dthreshold = -reduce_sum(dscores.double(), (group_n, group_k)).to(threshold.dtype)
    return dweight, dscores, dthreshold
