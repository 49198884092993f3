"""The products behind ``block_sparse_linear``, decided once for tensors alike."""

from collections.abc import Callable

import torch
from torch import Tensor

from smart_kernels.ops.common.block_matmul import Product, needs_fp8, plan_grad, plan_matmul
from smart_kernels.ops.common.launch import NOTHING
from smart_kernels.ops.common.plan import Planned

from . import kernel_blocks, kernel_rows
from .tile_matmul import TileProduct, plan_tiles, takes_tiles

Settings = tuple[int, str | None, torch.dtype | None, bool, str]  # rows of W, activation, dtype, aligned, precision


@Planned
def product(x, values, crow_indices, col_indices, bias, index, residual, scale, *settings) -> Callable:
    """Plan ``activation(x @ W.T + bias + residual)`` for W in block compressed sparse rows.

    Args:
        x: (M, K), and the other tensors as in ``block_sparse_linear``; bias contiguous.
        settings: ``Settings``, aligned if x and values are.
    """
    tensors = x, values, crow_indices, col_indices, bias, index, residual, scale
    if scale is NOTHING and takes_tiles(x.shape[0], values.shape[2], x.dtype):
        return _tiles(tensors, settings)
    return _blocks(tensors, settings)


def _tiles(tensors: tuple, settings: Settings) -> Callable:
    x, values, crow, col, bias, _, residual, _ = tensors
    rows, activation, dtype, aligned, precision = settings
    tiles = TileProduct(rows, activation, dtype, precision, aligned)
    stored = len(crow) - 1
    lists = kernel_rows.stand_ins(stored, stored, len(col))
    multiply = plan_tiles(x, values, *lists, NOTHING, bias, residual, tiles)

    def run(x, values, crow, col, bias, index, residual, scale):
        return multiply(x, values, *_stored_rows(crow, col), NOTHING, bias, residual)

    return run


def _blocks(tensors: tuple, settings: Settings) -> Callable:
    x, values, crow, _, bias, index, residual, scale = tensors
    rows, activation, dtype, aligned, precision = settings
    n, k = kernel_blocks.forward_axes(values.shape[1:], (rows, x.shape[1]), x.element_size())
    cut = kernel_blocks.plan_cut(values, n, k)
    lists = kernel_rows.plan_rows(len(crow) - 1, n, k)
    if scale is not NOTHING:
        needs_fp8()

    nnz = len(values)  # no tensor is kept

    def scales(scale):
        return scale if scale is NOTHING else kernel_blocks.cut_scale(scale, nnz, n, k)

    blocks = Product(n, k, aligned, activation, dtype, precision)
    listed = kernel_rows.stand_ins(0, 0, 0)
    multiply = plan_matmul(x, cut(values), *listed, NOTHING, index, scales(scale), bias, residual, blocks)

    def run(x, values, crow, col, bias, index, residual, scale):
        start, end, cols, order = lists(crow, col, index)
        return multiply(x, cut(values), start, end, cols, NOTHING, order, scales(scale), bias, residual)

    return run


def _stored_rows(crow_indices: Tensor, col_indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return start, end and columns of each stored row."""
    return *kernel_rows.ends(crow_indices.int()), col_indices.int()


@Planned
def product_dx(
    dy, values, crow_indices, col_indices, index, in_features: int, aligned: bool, precision: str
) -> Callable:
    """Plan ``dy @ W``, (M, in_features); ``aligned`` if dy and values are."""
    cols, nnz = -(-in_features // values.shape[2]), len(values)
    columns = kernel_rows.plan_columns(crow_indices, col_indices, cols, index)
    listed = kernel_rows.stand_ins(cols, cols, nnz, nnz)
    nothing = (NOTHING, NOTHING)  # neither bias nor residual
    if takes_tiles(dy.shape[0], values.shape[1], dy.dtype):
        multiply = plan_tiles(
            dy, values.mT, *listed, *nothing, TileProduct(in_features, None, None, precision, aligned)
        )
        return lambda dy, values, *indices: multiply(dy, values.mT, *columns(*indices), *nothing)
    n, k = kernel_blocks.backward_axes(values.shape[1:], (dy.shape[1], in_features), dy.element_size())
    cut = kernel_blocks.plan_cut(values.mT, k, n)
    spread = kernel_rows.plan_transposed_rows(n, k)
    others = (NOTHING, NOTHING, *nothing)  # no order, no scale
    blocks = Product(k, n, aligned, None, None, precision)
    multiply = plan_matmul(dy, cut(values.mT), *listed, *others, blocks)
    return lambda dy, values, *indices: multiply(dy, cut(values.mT), *spread(*columns(*indices)), *others)


@Planned
def product_dvalues(dy, x, crow_indices, col_indices, bn: int, bk: int, aligned: bool, precision: str) -> Callable:
    """Plan the (nnz, bn, bk) gradients of the stored blocks; ``aligned`` if dy and x are."""
    n, k = kernel_blocks.axes((bn, bk), (dy.shape[1], x.shape[1]))
    grad = plan_grad(dy, x, n.parts * len(col_indices) * k.parts, n, k, x.dtype, aligned, precision)
    join = kernel_blocks.plan_join(n, k)

    def run(dy, x, crow, col):
        listed = kernel_rows.rows(crow, col, None, n, k)
        return join(grad(dy, x, listed.start, listed.end, listed.cols))

    return run
