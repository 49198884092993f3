"""``prepared_linear``: ``masked_linear`` whose live blocks were listed and packed before, for many layers at once."""

from collections.abc import Callable
from itertools import accumulate

from torch import Tensor

from smart_kernels.ops.common.arguments import precision
from smart_kernels.ops.common.axis import Axis
from smart_kernels.ops.common.block_matmul import Product, plan_matmul
from smart_kernels.ops.common.inputs import flat, no_autocast
from smart_kernels.ops.common.launch import NOTHING, aligned
from smart_kernels.ops.common.library import define, differentiable
from smart_kernels.ops.common.plan import Planned
from smart_kernels.reference.masked import prepared as reference

from .linear import parameter_gradients
from .live_blocks import TileMask


def prepared_linear(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    packed: Tensor,
    index: Tensor,
    *,
    tile: tuple[int, int],
    eps: float,
) -> Tensor:
    """Return ``masked_linear(x, weight, mask, bias, tile=tile, eps=eps)`` from what ``GroupedBlocks`` has made of both.

    Three launches forward and backward: y, dx, and dweight with the gradients of mask and bias; one more where a tile
    is larger than a block. Nothing is checked: masks and weights must be those that packed and index were made of, and
    x be as autocast wants it.

    Args:
        x: (..., K), dtype of ``packed``.
        packed: (n.blocks * k.blocks, n.block, k.block) of one layer.
        index: its int32 index.
        others: see ``masked_linear``.

    Returns:
        (..., N), dtype of ``x``.
    """
    with no_autocast(x):
        y = _prepared_linear(flat(x), weight, mask, bias, packed, index, *tile, eps)
    return y.view(*x.shape[:-1], len(weight))


def index_sizes(n: Axis, k: Axis) -> list[int]:
    """Return the lengths of an index's lists: start, end, order, cols, slots, of rows and then of columns.

    They are those of ``BlockRows``, each rounded up to 16 bytes.
    """
    rows, columns, entries = (-(-count // 4) * 4 for count in (n.blocks, k.blocks, n.blocks * k.blocks))
    return [*[rows] * 3, entries, entries, *[columns] * 3, entries, entries]


@define("prepared_linear", reference=reference.prepared_linear)
def _prepared_linear(
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
    bias = NOTHING if bias is None else bias.contiguous()
    return _product((x, weight, packed, index, bias), ((tile_n, tile_k), aligned(x), precision()))


@define("prepared_linear_dx", reference=reference.prepared_linear_dx)
def _prepared_linear_dx(
    dy: Tensor, weight: Tensor, mask: Tensor, packed: Tensor, index: Tensor, tile_n: int, tile_k: int, eps: float
) -> Tensor:
    return _transposed((dy, weight, packed, index), ((tile_n, tile_k), aligned(dy), precision()))


@Planned
def _product(x, weight, packed, index, bias, tile: tuple[int, int], x_aligned: bool, precision: str) -> Callable:
    n, k = TileMask(weight, tile, 0.0).axes(weight.shape)
    product = Product(n, k, x_aligned, None, None, precision)
    lists = _lists(n, k, 0)
    multiply = plan_matmul(x, packed, *[index] * 5, NOTHING, bias, NOTHING, product)

    def run(x, weight, packed, index, bias):
        start, end, order, cols, slots = lists(index)
        return multiply(x, packed, start, end, cols, slots, order, NOTHING, bias, NOTHING)

    return run


@Planned
def _transposed(dy, weight, packed, index, tile: tuple[int, int], dy_aligned: bool, precision: str) -> Callable:
    n, k = TileMask(weight, tile, 0.0).axes(weight.shape)
    product = Product(k, n, dy_aligned, None, None, precision)
    lists = _lists(n, k, 5)
    multiply = plan_matmul(dy, packed.mT, *[index] * 5, NOTHING, NOTHING, NOTHING, product)

    def run(dy, weight, packed, index):
        start, end, order, cols, slots = lists(index)
        return multiply(dy, packed.mT, start, end, cols, slots, order, NOTHING, NOTHING, NOTHING)

    return run


def _lists(n: Axis, k: Axis, first: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return what cuts five lists out of an index, from the ``first`` on."""
    sizes = index_sizes(n, k)
    begin = [0, *accumulate(sizes)][first]
    sizes = sizes[first : first + 5]
    length = sum(sizes)
    return lambda index: index.narrow(0, begin, length).split_with_sizes(sizes)


def _setup_context(ctx, inputs, output):
    x, weight, mask, bias, packed, index, tile_n, tile_k, eps = inputs
    ctx.settings = tile_n, tile_k, eps, False
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight, mask, packed, index)


def _backward(ctx, dy):
    x, weight, mask, packed, index = ctx.saved_tensors
    dx = _prepared_linear_dx(dy, weight, mask, packed, index, *ctx.settings[:3]) if ctx.needs_input_grad[0] else None
    return dx, *parameter_gradients(ctx, dy, x, weight, mask), *[None] * 5


differentiable(_prepared_linear, _backward, _setup_context)
