"""Definition of ``masked_conv2d``: the convolution with the masked weight. Images are NHWC, and the weight is a matrix
(N, taps * W) of which the first C of every W columns count."""

import torch.nn.functional as F
from torch import Tensor

from smart_kernels.reference.common.conv import gradient
from smart_kernels.reference.common.epilogue import finish
from smart_kernels.reference.common.precision import wide
from smart_kernels.shapes import Conv

from .linear import apply_mask, split_gradient


def masked_conv2d(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    geometry: list[int],
    tile_n: int,
    tile_k: int,
    eps: float,
    dead_grad: bool,
) -> Tensor:
    """Return (B, H', W', N) from (B, H, W, C), summed in fp32 or better."""
    conv = Conv.of(geometry)
    masked = _kernel(apply_mask(wide(weight), wide(mask), (tile_n, tile_k), eps), x.shape[3], conv)
    y = F.conv2d(wide(x).movedim(3, 1).to(masked.dtype), masked, None, *conv[1:]).movedim(1, 3)
    return finish(y, bias, None, None).to(x.dtype).contiguous()


def masked_conv2d_dx(
    dy: Tensor,
    weight: Tensor,
    mask: Tensor,
    geometry: list[int],
    height: int,
    width: int,
    channels: int,
    tile_n: int,
    tile_k: int,
    eps: float,
) -> Tensor:
    """Return (B, H, W, C) from (B, H', W', N)."""
    conv = Conv.of(geometry)
    masked = _kernel(apply_mask(wide(weight), wide(mask), (tile_n, tile_k), eps), channels, conv)
    x = masked.new_empty(dy.shape[0], channels, height, width)
    return gradient(dy.to(masked.dtype), x, masked, conv, 0).movedim(1, 3).to(dy.dtype).contiguous()


def masked_conv2d_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    geometry: list[int],
    tile_n: int,
    tile_k: int,
    eps: float,
    dead_grad: bool,
    needs_dweight: bool,
    needs_dmask: bool,
) -> tuple[Tensor, Tensor]:
    """Return dweight and dmask, each like its tensor; a gradient that is not needed comes back empty."""
    conv = Conv.of(geometry)
    N = dy.shape[3]
    C = x.shape[3]
    x = wide(x).movedim(3, 1)
    grad = gradient(dy, x, x.new_empty(N, C, *conv.kernel), conv, 1).permute(0, 2, 3, 1)
    grad = F.pad(grad, (0, weight.shape[1] // conv.taps - C)).flatten(1)
    return split_gradient(grad, weight, mask, (tile_n, tile_k), eps, dead_grad, needs_dweight, needs_dmask)


def _kernel(matrix: Tensor, channels: int, conv: Conv) -> Tensor:
    """Turn (N, taps * W) into (N, C, kh, kw)."""
    full = matrix.unflatten(1, (*conv.kernel, matrix.shape[1] // conv.taps))
    return full[..., :channels].permute(0, 3, 1, 2)
