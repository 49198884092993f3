"""Launches that ``masked_linear``, ``smart_linear`` and ``masked_conv2d`` share."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.masked.linear import pack_kernel, weight_grad_kernel
from smart_kernels.ops.common.arguments import m_class, precision
from smart_kernels.ops.common.axis import Axis
from smart_kernels.ops.common.block_matmul import Product, plan_matmul, whole_copies
from smart_kernels.ops.common.launch import ABSENT, NOTHING, TENSOR, Launch, aligned, slot
from smart_kernels.ops.common.plan import Planned, buffers

from .live_blocks import Settings, TileMask, cut, lists_launch

MOST = 1024  # blocks of a row that a program of the gradient looks at together


def matmul(x: Tensor, weight: Tensor, mask: TileMask, bias: Tensor | None) -> Tensor:
    """Return ``x @ (weight * mask).T + bias``: list the live blocks, pack them and order their rows, multiply."""
    tensors = (x, weight, *mask.given, NOTHING if bias is None else bias.contiguous())
    return _product(tensors, (mask.settings, aligned(x), precision()))


@Planned
def _product(
    x, weight, values, threshold, temperature, bias, settings: Settings, x_aligned: bool, precision: str
) -> Callable:
    mask = TileMask.of(values, threshold, temperature, settings)
    n, k = mask.axes(weight.shape)
    lists = lists_launch(mask, n, k)
    pack = pack_launch(weight, mask, n, k)
    blocks = torch.empty(n.blocks * k.blocks, n.block, k.block, dtype=x.dtype, device="meta")
    product = Product(n, k, x_aligned, None, None, precision)
    index = torch.empty(0, dtype=torch.int32, device="meta")
    multiply = plan_matmul(x, blocks, index, index, index, NOTHING, index, NOTHING, bias, NOTHING, product)
    new = functools.partial(torch.empty, blocks.shape, dtype=x.dtype, device=x.device)
    empty = buffers([n.blocks] * 3 + [n.blocks * k.blocks], torch.int32, x.device)

    def run(x, weight, values, threshold, temperature, bias):
        start, end, order, cols = empty()
        packed = new()
        lists(values, threshold, temperature, start, end, cols)
        pack(weight, values, threshold, temperature, end, cols, packed, order)
        return multiply(x, packed, start, end, cols, NOTHING, order, NOTHING, bias, NOTHING)

    return run


def pack_launch(weight: Tensor, mask: TileMask, n: Axis, k: Axis, order: object = TENSOR) -> Launch:
    """Return the launch that fills packed and order, given weight, the mask's tensors, end and cols before them."""
    return Launch(
        pack_kernel, (n.blocks * k.blocks,),
        TENSOR, *map(slot, mask.given), TENSOR, TENSOR, TENSOR, order,
        *weight.shape, n.blocks, k.blocks, *mask.groups,
        *weight.stride(), *mask.strides,
        mask.eps,
        **cut(n, k), EVEN_N=n.even, EVEN_K=k.even, ROWS=min(1024, triton.next_power_of_2(n.blocks)),
    )  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """Which gradients a backward computes.

    Attributes:
        dweight, dmask: whether they are wanted; one that is not comes back empty.
        dead_grad: dmask in dead tiles, too.
        dbias: the dtype of the gradient of a bias; None where none is wanted.
    """

    dweight: bool
    dmask: bool
    dead_grad: bool
    dbias: torch.dtype | None = None

    @property
    def all_blocks(self) -> bool:
        """Whether blocks without a live tile take part."""
        return self.dead_grad and self.dmask


def weight_grad(dy: Tensor, x: Tensor, weight: Tensor, mask: TileMask, wanted: Wanted) -> tuple[Tensor, Tensor, Tensor]:
    """Return dweight, dmask, which is dscores if the mask is soft, and dbias, by one launch.

    A second one sums dmask where a tile has several blocks.
    """
    return _weight_grad((dy, x, weight, *mask.given), (mask.settings, wanted, aligned(dy, x), precision()))


@Planned
def _weight_grad(
    dy, x, weight, values, threshold, temperature, settings: Settings, wanted: Wanted, aligned: bool, precision: str
) -> Callable:
    mask = TileMask.of(values, threshold, temperature, settings)
    n, k = mask.axes(weight.shape)
    outputs = wanted.dweight, wanted.dmask, wanted.dbias is not None
    one_tile = n.tiles_per_block == k.tiles_per_block == 1

    def programs(meta):
        group = max(1, meta["WIDTH"] // k.block) if one_tile else 1
        return (n.whole_blocks * triton.cdiv(k.whole_blocks, group) + n.blocks * outputs[2],)

    launch = Launch(
        weight_grad_kernel, programs,
        TENSOR, TENSOR, TENSOR, *map(slot, mask.given), *(TENSOR if each else ABSENT for each in outputs),
        x.shape[0], *weight.shape, n.blocks, k.whole_blocks, *mask.groups,
        *dy.stride(), *x.stride(), *weight.stride(), *mask.strides,
        mask.eps, m_class(x.shape[0]),
        **cut(n, k), PER_TILE_N=n.blocks_per_tile, PER_TILE_K=k.blocks_per_tile,
        EVEN_N=n.even, EVEN_K=k.even, WHOLE_COPIES=aligned and whole_copies(dy, x, n, k),
        DEAD_GRAD=wanted.all_blocks, PRECISION=precision,
        CHUNK=min(MOST, triton.next_power_of_2(k.whole_blocks)),
    )  # fmt: skip
    new = _new_gradients(torch.empty, weight, mask, n, k, wanted)
    finish = plan_finish(weight, mask, n, k, wanted)
    new_dbias = functools.partial(torch.empty, len(weight) if outputs[2] else 0, dtype=wanted.dbias, device=x.device)

    def run(*tensors):
        dweight, dmask = new()
        dbias = new_dbias()
        launch(*tensors, dweight, dmask, dbias if outputs[2] else NOTHING)
        return *finish(dweight, dmask), dbias

    return run


def plan_gradients(weight: Tensor, mask: TileMask, n: Axis, k: Axis, wanted: Wanted) -> Callable:
    """Return what makes zeros for dweight, and for dmask in one part per block of a tile; ``NOTHING`` where not wanted.

    Dead tiles are not visited, so zeros they stay.
    """
    return _new_gradients(torch.zeros, weight, mask, n, k, wanted)


def _new_gradients(make: Callable, weight: Tensor, mask: TileMask, n: Axis, k: Axis, wanted: Wanted) -> Callable:
    parts = n.blocks_per_tile * k.blocks_per_tile
    device = weight.device
    dweight = functools.partial(make, weight.shape, dtype=weight.dtype, device=device)
    dmask = functools.partial(make, (*mask.values.shape, parts), dtype=torch.float32, device=device)
    return lambda: (dweight() if wanted.dweight else NOTHING, dmask() if wanted.dmask else NOTHING)


def plan_finish(weight: Tensor, mask: TileMask, n: Axis, k: Axis, wanted: Wanted) -> Callable:
    """Return what sums the parts of a tile in order, in the dtype of the mask; what is not wanted comes back empty."""
    dtypes = (weight.dtype, mask.values.dtype)
    summed = n.blocks_per_tile * k.blocks_per_tile > 1
    empty = functools.partial(torch.empty, 0, device=weight.device)

    def run(dweight, dmask):
        if not wanted.dweight:
            dweight = empty(dtype=dtypes[0])
        if not wanted.dmask:
            return dweight, empty(dtype=dtypes[1])
        return dweight, (dmask.sum(2) if summed else dmask.squeeze(2)).to(dtypes[1])

    return run
