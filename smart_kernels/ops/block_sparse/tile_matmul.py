"""Products with stored tiles of any size, read where they are: few rows of x, or tiles that are narrow in K.

======================  ==================================  ===============
rows of x               pieces of a tile along K            kernel
======================  ==================================  ===============
at most FEW_ROWS        any                                 block_decode
more                    shorter than a step of STEP bytes   block_gather
more                    a whole step                        block_matmul
======================  ==================================  ===============

With few rows time goes into reading W, with many into tensor cores and reading x.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.block_sparse.decode import block_decode_kernel
from smart_kernels.kernels.block_sparse.gather import block_gather_kernel
from smart_kernels.kernels.common.pieces import sum_pieces_kernel
from smart_kernels.ops.common.arguments import m_class, overlapped, since_hopper, strides
from smart_kernels.ops.common.axis import Axis
from smart_kernels.ops.common.blocks import block_strides
from smart_kernels.ops.common.launch import NOTHING, TENSOR, Launch, slot

FEW_ROWS = 64
STEP = 128  # bytes of each row of x and W that one step of the loop reads
PIECE = 8  # shortest piece: 16 bytes of a 2-byte dtype
PROGRAMS = 132  # what fills an H100 or H200, one on each multiprocessor
SPLIT_STEPS = 4  # a shorter share of a row would not fill its pipeline


def takes_tiles(M: int, tile_k: int, dtype: torch.dtype) -> bool:
    """Return whether ``plan_tiles`` is made for M rows of x and tiles of ``tile_k`` columns."""
    return M <= FEW_ROWS or _axis_k(tile_k, tile_k, dtype).block * dtype.itemsize < STEP


@dataclass(frozen=True)
class TileProduct:
    """All that a product with stored tiles follows from, but for its tensors.

    Attributes:
        out_features: N.
        activation: a key of ``reference.common.epilogue.ACTIVATIONS`` or None.
        dtype: of the result; None: that of x.
        precision: of ``tl.dot`` in fp32.
        aligned: whether x and the tiles lie at multiples of 16 bytes.
    """

    out_features: int
    activation: str | None
    dtype: torch.dtype | None
    precision: str
    aligned: bool


def plan_tiles(x, values, start, end, cols, slots, bias, residual, product: TileProduct) -> Callable:
    """Plan ``activation(x @ W.T + bias + residual)`` with the tiles of W in ``values``, accumulated in fp32.

    Args:
        x: (M, K) fp32, fp16 or bf16, any strides. Columns without a tile are not read.
        values: (S, bn, bk) same dtype, any strides, any bn and bk; what lies beyond the edge of W is not read.
        start, end, cols, slots: as in ``BlockRows``, the tiles of each of the ``ceil(N / bn)`` rows of tiles.
        bias: (N,), contiguous.
        residual: (M, N), any strides.
        product: all else.

    Returns:
        A function that takes the tensors, ``NOTHING`` for slots, bias or residual where there is none, and returns
        the (M, N) product.
    """
    M, N = x.shape[0], product.out_features
    new = functools.partial(torch.empty, (M, N), dtype=product.dtype or x.dtype, device=x.device)
    if not M * N:
        return lambda *tensors: new()
    few = M <= FEW_ROWS
    n = Axis.separate(N, values.shape[1], 64 if few else 128)
    k = _axis_k(x.shape[1], values.shape[2], x.dtype)
    plan = _plan_decode if few else _plan_gather
    return plan((x, values, start, end, cols, slots, bias, residual), n, k, product, new)


def _constants(values: Tensor, n: Axis, k: Axis, product: TileProduct) -> dict[str, int | bool | str | None]:
    """Return the compile-time arguments that both kernels take: ``k`` is cut into pieces, a step gathers several."""
    gathered = _gathered(values, k)
    return {
        **block_strides(values),
        **{"TILE_N": n.tile, "PARTS_N": n.parts, "TILE_K": k.tile, "PARTS_K": k.parts, "GATHER": gathered},
        **{"EVEN_K": k.even, "WHOLE": k.tile % k.block == k.size % k.block == 0},
        **{"PRECISION": product.precision, "BLOCK_N": n.block, "BLOCK_K": gathered * k.block},
        "ACTIVATION": product.activation,
    }


def _gathered(values: Tensor, k: Axis) -> int:
    """Return the number of pieces in a step."""
    return max(1, STEP // values.itemsize // k.block)


def _plan_gather(tensors: tuple, n: Axis, k: Axis, product: TileProduct, new: Callable) -> Callable:
    x, values, *_, residual = tensors
    M, blocks = x.shape[0], n.blocks
    launch = Launch(
        block_gather_kernel, lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * blocks,),
        *map(slot, tensors), TENSOR,
        M, n.size, k.size,
        *x.stride(), *strides(residual), n.size,
        m_class(M), blocks,
        **_constants(values, n, k, product),
    )  # fmt: skip

    def run(*tensors):
        y = new()
        launch(*tensors, y)
        return y

    return run


def _plan_decode(tensors: tuple, n: Axis, k: Axis, product: TileProduct, new: Callable) -> Callable:
    x, values, start, _, cols, _, _, residual = tensors
    M, N = x.shape[0], n.size
    pieces = splits(n.blocks, len(cols) * k.parts // (_gathered(values, k) * len(start)))
    launch = Launch(
        block_decode_kernel, (n.blocks, pieces),
        *map(slot, tensors), TENSOR,
        M, N, k.size,
        *x.stride(), *strides(residual), N,
        **_constants(values, n, k, product), SPLITS=pieces, **overlapped(), TILE_BYTES=_in_a_row(tensors, n, product),
        BLOCK_M=next(rows for rows in (16, 32, FEW_ROWS) if rows >= M),
    )  # fmt: skip
    sums = functools.partial(torch.empty, (pieces, M, N), dtype=torch.float32, device=x.device)
    add = _sum_launch(tensors, pieces, N, product)

    def run(*tensors):
        y = new()
        launch(*tensors, y)
        return y

    def run_in_pieces(*tensors):
        y = new()
        parts = sums()
        launch(*tensors, parts)
        add(parts, *tensors[-2:], y)
        return y

    return run if pieces == 1 else run_in_pieces


def _in_a_row(tensors: tuple, n: Axis, product: TileProduct) -> int:
    """Return the bytes of a tile if those that a program reads follow each other, so that one request takes all."""
    _, values, *_, slots, _, _ = tensors
    tile = values.stride(0) * values.itemsize
    follow = slots is NOTHING and n.parts == 1 and values.is_contiguous() and product.aligned and tile % 16 == 0
    return tile if follow and since_hopper() else 0


def _sum_launch(tensors: tuple, pieces: int, N: int, product: TileProduct) -> Launch:
    """Return the launch that adds the pieces up, given them, bias, residual and the result."""
    x, *_, bias, residual = tensors
    M = x.shape[0]
    return Launch(
        sum_pieces_kernel, (triton.cdiv(N, 256), M),
        TENSOR, None, slot(bias), slot(residual), TENSOR,
        M, N,
        0, *strides(residual), N,
        SPLITS=pieces, ACTIVATION=product.activation, BLOCK_N=256, **overlapped(),
    )  # fmt: skip


def splits(rows: int, steps: int) -> int:
    """Return how many programs share a row of ``steps`` steps on average, a power of two (each is compiled)."""
    wanted = triton.next_power_of_2(triton.cdiv(PROGRAMS, rows))
    return min(wanted, 1 << max(1, steps // SPLIT_STEPS).bit_length() - 1)


def _axis_k(K: int, tile_k: int, dtype: torch.dtype) -> Axis:
    return Axis.separate(K, tile_k, STEP // dtype.itemsize, PIECE)
