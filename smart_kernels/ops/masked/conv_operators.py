"""The registered operators behind ``masked_conv2d``. Images are contiguous NHWC; ``geometry`` is ``Conv.numbers``.

The weight is a matrix (N, taps * W), W >= C so that each kernel position has blocks of its own, all of one cut.
"""

from torch import Tensor

from smart_kernels.ops.common.arguments import precision
from smart_kernels.ops.common.inputs import unsuited
from smart_kernels.ops.common.launch import NOTHING
from smart_kernels.ops.common.library import always, define, differentiable
from smart_kernels.reference.masked import conv2d as reference

from .conv_matmul import convolution, convolution_dx, gradients
from .matmul import Wanted


@define("masked_conv2d", reference=reference.masked_conv2d, visible=always)
def masked_conv(
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
    if unsuited(x, weight, mask):
        return reference.masked_conv2d(x, weight, mask, bias, geometry, tile_n, tile_k, eps, dead_grad)
    tensors = (x, weight, mask, NOTHING if bias is None else bias.contiguous())
    return convolution(tensors, (tuple(geometry), (tile_n, tile_k), eps, precision()))


@define("masked_conv2d_dx", reference=reference.masked_conv2d_dx, visible=always)
def masked_conv_dx(
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
    if unsuited(dy, weight, mask):
        return reference.masked_conv2d_dx(
            dy, weight, mask, geometry, height, width, channels, tile_n, tile_k, eps
        )  # fmt: skip
    settings = (tuple(geometry), (height, width, channels), (tile_n, tile_k), eps, precision())
    return convolution_dx((dy, weight, mask), settings)


@define("masked_conv2d_backward", reference=reference.masked_conv2d_backward, visible=always)
def masked_conv_backward(
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
    wanted = Wanted(needs_dweight, needs_dmask, dead_grad)
    if not unsuited(x, weight, mask):
        return gradients((dy, x, weight, mask), (tuple(geometry), (tile_n, tile_k), eps, wanted, precision()))
    args = dy, x, weight, mask, geometry, tile_n, tile_k, eps
    return reference.masked_conv2d_backward(*args, dead_grad, needs_dweight, needs_dmask)


def _setup_context(ctx, inputs, output):
    x, weight, mask, bias, *ctx.settings = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight, mask)


def _backward(ctx, dy):
    x, weight, mask = ctx.saved_tensors
    geometry, tile_n, tile_k, eps, _ = ctx.settings
    needs_dx, needs_dweight, needs_dmask, needs_dbias = ctx.needs_input_grad[:4]
    dx = dweight = dmask = dbias = None
    dy = dy.contiguous()
    if needs_dx:
        dx = masked_conv_dx(dy, weight, mask, geometry, *x.shape[1:], tile_n, tile_k, eps)
    if needs_dweight or needs_dmask:
        dweight, dmask = masked_conv_backward(dy, x, weight, mask, *ctx.settings, needs_dweight, needs_dmask)
    if needs_dbias:
        dbias = dy.sum((0, 1, 2), dtype=ctx.bias_dtype)
    return dx, dweight if needs_dweight else None, dmask if needs_dmask else None, dbias, *[None] * 5


differentiable(masked_conv, _backward, _setup_context)
