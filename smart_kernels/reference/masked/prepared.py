"""Definition of ``prepared_linear``: ``masked_linear``, whatever was prepared."""

import torch
from torch import Tensor

from .linear import apply_mask, masked_linear


def prepared_linear(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    packed: Tensor,
    index: Tensor,
    tile_n: int,
    tile_k: int,
    eps: float,
) -> Tensor:
    """Return ``x @ apply_mask(weight, mask).T + bias``."""
    return masked_linear(x, weight, mask, bias, tile_n, tile_k, eps, False)


def prepared_linear_dx(
    dy: Tensor, weight: Tensor, mask: Tensor, packed: Tensor, index: Tensor, tile_n: int, tile_k: int, eps: float
) -> Tensor:
    """Return ``dy @ apply_mask(weight, mask)``."""
    wide = torch.promote_types(dy.dtype, torch.float32)
    return (dy.to(wide) @ apply_mask(weight.to(wide), mask.to(wide), (tile_n, tile_k), eps)).to(dy.dtype)
