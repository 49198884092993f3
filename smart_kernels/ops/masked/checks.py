"""Checks of the arguments of ``masked_linear``, ``smart_linear`` and ``masked_conv2d``."""

from collections.abc import Callable

import torch
from torch import Tensor

from smart_kernels.ops.common.conv_inputs import check_geometry
from smart_kernels.ops.common.launch import NOTHING, given
from smart_kernels.ops.common.plan import Planned, checked, no_work
from smart_kernels.shapes import Conv
from smart_kernels.shapes.tiles import grid


def check_linear(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, name: str, tile: tuple[int, int], eps: float
) -> None:
    """Raise ``ValueError`` unless the arguments fit; ``name`` is what the caller calls its mask.

    What has fitted once fits again: tensors alike are not looked at twice, but by a compiler.
    """
    if torch.compiler.is_compiling():
        _check_linear(x, weight, mask, bias, name, tile, eps)
    else:
        _fits((x, weight, mask, given(bias)), (name, tuple(tile), eps))


@Planned
def _fits(x, weight, mask, bias, name: str, tile: tuple[int, int], eps: float) -> Callable:
    _check_linear(x, weight, mask, None if bias is NOTHING else bias, name, tile, eps)
    return no_work


def _check_linear(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, name: str, tile: tuple[int, int], eps: float
) -> None:
    if weight.dim() != 2:
        raise ValueError(f"weight must be (N, K), got {tuple(weight.shape)}")
    N, K = weight.shape
    if x.dim() < 1 or x.shape[-1] != K:
        raise ValueError(f"x must be (..., {K}) for weight {(N, K)}, got {tuple(x.shape)}")
    _check_mask(mask, name, _grid((N, K), tile), weight, tile)
    _check_others(x, weight, mask, bias, name, eps)


@checked
def check_conv(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, tile: tuple[int, int], eps: float, conv: Conv
) -> None:
    """Raise ``ValueError`` unless the arguments fit."""
    if weight.dim() != 4 or 0 in weight.shape:
        raise ValueError(f"weight must be (N, C, kh, kw) with at least one entry, got {tuple(weight.shape)}")
    N, C, kh, kw = weight.shape
    if x.dim() != 4 or x.shape[1] != C:
        raise ValueError(f"x must be (B, {C}, H, W) for weight {tuple(weight.shape)}, got {tuple(x.shape)}")
    check_geometry(conv)
    if min(conv.output_size(*x.shape[2:])) < 1:
        raise ValueError(f"the output must have a pixel, got {conv.output_size(*x.shape[2:])} for x {tuple(x.shape)}")
    rows, per_tap = _grid((N, C), tile)
    _check_mask(mask, "mask", (rows, kh * kw * per_tap), weight, tile)
    _check_others(x, weight, mask, bias, "mask", eps)


def _grid(shape: tuple[int, int], tile: tuple[int, int]) -> tuple[int, int]:
    if len(tile) != 2 or min(tile) < 1:
        raise ValueError(f"tile must be two positive sizes, got {tile}")
    return grid(shape, tile)


def _check_mask(mask: Tensor, name: str, shape: tuple[int, int], weight: Tensor, tile: tuple[int, int]) -> None:
    if mask.shape != shape:
        raise ValueError(
            f"{name} must be {shape} for weight {tuple(weight.shape)} and tile {tile}, got {tuple(mask.shape)}"
        )


def _check_others(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, name: str, eps: float) -> None:
    N = len(weight)
    if bias is not None and bias.shape != (N,):
        raise ValueError(f"bias must be {(N,)} for weight {tuple(weight.shape)}, got {tuple(bias.shape)}")
    if not 0 <= eps < 1:
        raise ValueError(f"eps must be in [0, 1), got {eps}")
    for other, tensor in (("weight", weight), (name, mask), ("bias", bias)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{other} must be on the device of x, {x.device}, got {tensor.device}")
