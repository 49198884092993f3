"""``masked_conv2d``: convolution whose weight is scaled, tile by tile, by a mask."""

import torch.nn.functional as F
from torch import Tensor

from smart_kernels.ops.common.axis import SMALL_TILES
from smart_kernels.ops.common.conv_inputs import nhwc, pixels
from smart_kernels.ops.common.inputs import autocast, no_autocast
from smart_kernels.shapes import Conv, pair

from .checks import check_conv
from .conv_operators import masked_conv
from .linear import masked_linear
from .live_blocks import TileMask

Size = int | tuple[int, int]


def masked_conv2d(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    *,
    tile: tuple[int, int],
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    eps: float = 0.0,
    dead_grad: bool = False,
) -> Tensor:
    """Return ``conv2d(x, weight * expand(mask)) + bias``, skipping dead tiles, those with mask <= eps.

    Column ``tap * ceil(C / tile_c) + i`` of the mask is tile ``i`` of kernel position ``tap = row * kw + column``. A
    dead tile is neither loaded nor multiplied, forward or backward, and its dweight and dmask are exactly 0. A
    pointwise convolution is ``masked_linear`` of its pixels, in channels_last and without a stride a view.
    Differentiable in ``x``, ``weight``, ``mask`` and ``bias``; deterministic. For a soft mask pass that of
    ``soft_topk``, whose gradient goes on to scores and threshold.

    Args:
        x: (B, C, H, W), fastest in channels_last; fp32, fp16, bf16 or fp64. Under autocast it is cast, the others not.
        weight: (N, C, kh, kw), fastest in channels_last, may be wider than ``x``; groups are not supported.
        mask: (ceil(N / tile_n), taps * ceil(C / tile_c)) one value in [0, 1] per tile. NaN is live.
        bias: (N,) or None.
        tile: (tile_n, tile_c), what one mask value covers at one kernel position.
        stride, padding, dilation: as in ``nn.Conv2d``.
        eps: in [0, 1).
        dead_grad: compute dmask in dead tiles too, at the cost of a dense backward.

    Returns:
        (B, N, H', W') in channels_last, dtype of ``x``, accumulated in fp32 (fp64 for fp64).

    Raises:
        ValueError: a shape, device, tile or eps does not fit.
    """
    conv = Conv(tuple(weight.shape[2:]), *map(pair, (stride, padding, dilation)))
    check_conv((x, weight, mask, bias), (tuple(tile), eps, conv))
    x = autocast(x)
    with no_autocast(x):
        if conv.pointwise:
            settings = {"tile": tuple(tile), "eps": eps, "dead_grad": dead_grad}
            return masked_linear(pixels(x, conv.stride), weight.flatten(1), mask, bias, **settings).movedim(3, 1)
        matrix, mask, tile_k = _aligned(weight, mask, tile)
        y = masked_conv(nhwc(x), matrix, mask, bias, conv.numbers, tile[0], tile_k, eps, dead_grad)
    return y.movedim(3, 1)


def _aligned(weight: Tensor, mask: Tensor, tile: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
    """Return the weight as a matrix, its mask and tile_k, so that blocks start anew at every kernel position.

    What is beyond C belongs to a tile that it shares with weights, or to a dead one. A tile over several blocks becomes
    as many tiles.
    """
    N, C, kh, kw = weight.shape
    _, k = TileMask(mask, tile, 0.0).axes((N, C))
    width = k.blocks // k.parts * k.stride
    matrix = weight.permute(0, 2, 3, 1)
    if width > C:
        matrix = F.pad(matrix, (0, width - C))
    tile_k = k.tile if k.tile in SMALL_TILES else k.stride
    tiles = mask.unflatten(1, (kh * kw, -1))
    wanted = width // tile_k
    if k.tile > tile_k:
        tiles = tiles.repeat_interleave(-(-k.tile // tile_k), 2)[..., :wanted]
    elif tiles.shape[2] < wanted:
        tiles = F.pad(tiles, (0, wanted - tiles.shape[2]))
    return matrix.flatten(1), tiles.flatten(1), tile_k
