"""``masked_linear``: linear layer whose weight is scaled, tile by tile, by a mask."""

import torch
from torch import Tensor

from smart_kernels.kernels.masked_linear import pack_kernel, weight_grad_kernel
from smart_kernels.ops._library import define
from smart_kernels.ops._live_blocks import TileMask, cut, live_blocks
from smart_kernels.ops._matmul import block_matmul, m_class, precision
from smart_kernels.reference import masked_linear as reference
from smart_kernels.reference.tiles import grid


def masked_linear(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    *,
    tile: tuple[int, int],
    eps: float = 0.0,
    dead_grad: bool = False,
) -> Tensor:
    """``x @ (weight * expand(mask)).T + bias``, skipping dead tiles, those with mask <= eps.

    A dead tile is neither loaded nor multiplied, forward or backward, and its dweight and dmask are exactly 0.
    Differentiable in ``x``, ``weight``, ``mask`` and ``bias``; deterministic.

    Args:
        x: (..., K) activations; fp32, fp16, bf16 or fp64. Under autocast they are cast, the others are not.
        weight: (N, K), may be wider than ``x``.
        mask: (ceil(N / tile_n), ceil(K / tile_k)) one value in [0, 1] per tile. NaN is live.
        bias: (N,) or None.
        tile: (tile_n, tile_k), what one mask value covers.
        eps: in [0, 1).
        dead_grad: compute dmask in dead tiles too, at the cost of a dense backward.

    Returns:
        (..., N), dtype of ``x``, accumulated in fp32 (fp64 for fp64).

    Raises:
        ValueError: a shape, device, tile or eps does not fit.
    """
    check_linear(x, weight, mask, bias, "mask", tile, eps)
    x = autocast(x)
    with torch.autocast(x.device.type, enabled=False):
        y = _masked_linear(flat(x), weight, mask, bias, *tile, eps, dead_grad)
    return y.view(*x.shape[:-1], len(weight))


def check_linear(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, name: str, tile: tuple[int, int], eps: float
) -> None:
    """Raise ``ValueError`` unless the arguments fit; ``name`` is what the caller calls its mask."""
    if weight.dim() != 2:
        raise ValueError(f"weight must be (N, K), got {tuple(weight.shape)}")
    N, K = weight.shape
    if x.dim() < 1 or x.shape[-1] != K:
        raise ValueError(f"x must be (..., {K}) for weight {(N, K)}, got {tuple(x.shape)}")
    if len(tile) != 2 or min(tile) < 1:
        raise ValueError(f"tile must be two positive sizes, got {tile}")
    if mask.shape != grid((N, K), tile):
        raise ValueError(
            f"{name} must be {grid((N, K), tile)} for weight {(N, K)} and tile {tile}, got {tuple(mask.shape)}"
        )
    if bias is not None and bias.shape != (N,):
        raise ValueError(f"bias must be {(N,)} for weight {(N, K)}, got {tuple(bias.shape)}")
    if not 0 <= eps < 1:
        raise ValueError(f"eps must be in [0, 1), got {eps}")
    for other, tensor in (("weight", weight), (name, mask), ("bias", bias)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{other} must be on the device of x, {x.device}, got {tensor.device}")


def autocast(x: Tensor) -> Tensor:
    """``x`` as autocast would hand it to ``F.linear``."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(device))
    return x


def flat(x: Tensor) -> Tensor:
    """(..., K) -> (M, K), also if K = 0."""
    return x.reshape(x.shape[:-1].numel(), x.shape[-1])


@define("masked_linear", reference=reference.masked_linear)
def _masked_linear(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    tile_n: int,
    tile_k: int,
    eps: float,
    dead_grad: bool,
) -> Tensor:
    if unsuited(x, weight, mask):
        return reference.masked_linear(x, weight, mask, bias, tile_n, tile_k, eps, dead_grad)
    return matmul(x, weight, TileMask(mask, (tile_n, tile_k), eps), bias)


@define("masked_linear_backward", reference=reference.masked_linear_backward)
def _masked_linear_backward(
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
    if unsuited(x, weight, mask):
        return reference.masked_linear_backward(
            dy, x, weight, mask, tile_n, tile_k, eps, dead_grad, needs_dweight, needs_dmask
        )
    return weight_grad(dy, x, weight, TileMask(mask, (tile_n, tile_k), eps), dead_grad, needs_dweight, needs_dmask)


def unsuited(x: Tensor, weight: Tensor, mask: Tensor) -> bool:
    """Tensor cores have no path for fp64 as we use it, and nothing needs no launch."""
    return torch.float64 in (x.dtype, weight.dtype, mask.dtype) or 0 in (*x.shape, *weight.shape)


def matmul(x: Tensor, weight: Tensor, mask: TileMask, bias: Tensor | None) -> Tensor:
    """``x @ (weight * mask).T + bias``: list the live blocks, pack them, multiply."""
    n, k = mask.axes(weight.shape)
    rows = live_blocks(mask, n, k)
    packed = x.new_empty(n.blocks * k.blocks, n.block, k.block)
    pack_kernel[(len(packed),)](
        weight, *mask.tensors, rows.end, rows.cols, packed,
        *weight.shape, k.blocks, *mask.groups,
        *weight.stride(), *mask.strides,
        mask.eps,
        **cut(n, k), EVEN_N=n.even, EVEN_K=k.even,
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


def _setup_context(ctx, inputs, output):
    x, weight, mask, bias, *ctx.settings = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight, mask)


def _backward(ctx, dy):
    x, weight, mask = ctx.saved_tensors
    tile_n, tile_k, eps, dead_grad = ctx.settings
    needs_dx, needs_dweight, needs_dmask, needs_dbias = ctx.needs_input_grad[:4]
    dx = dweight = dmask = dbias = None
    if needs_dx:  # the forward of the transposed weight
        dx = _masked_linear(dy, weight.T, mask.T, None, tile_k, tile_n, eps, dead_grad)
    if needs_dweight or needs_dmask:
        dweight, dmask = _masked_linear_backward(dy, x, weight, mask, *ctx.settings, needs_dweight, needs_dmask)
    if needs_dbias:
        dbias = dy.sum(0, dtype=ctx.bias_dtype)
    return dx, dweight if needs_dweight else None, dmask if needs_dmask else None, dbias, None, None, None, None


_masked_linear.register_autograd(_backward, setup_context=_setup_context)
