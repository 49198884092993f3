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

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.block_sparse.decode import block_decode_kernel
from smart_kernels.kernels.block_sparse.gather import block_gather_kernel
from smart_kernels.kernels.common.pieces import sum_pieces_kernel
from smart_kernels.ops.common.arguments import m_class, precision
from smart_kernels.ops.common.axis import Axis
from smart_kernels.ops.common.blocks import BlockRows
from smart_kernels.ops.common.epilogue import Epilogue

FEW_ROWS = 64
STEP = 128  # bytes of each row of x and W that one step of the loop reads
PIECE = 8  # shortest piece: 16 bytes of a 2-byte dtype
PROGRAMS = 132  # what fills an H100 or H200, one on each multiprocessor
SPLIT_STEPS = 4  # a shorter share of a row would not fill its pipeline


def takes_tiles(M: int, tile_k: int, dtype: torch.dtype) -> bool:
    """Return whether ``tile_matmul`` is made for M rows of x and tiles of ``tile_k`` columns."""
    return M <= FEW_ROWS or _axis_k(tile_k, tile_k, dtype).block * dtype.itemsize < STEP


def tile_matmul(x: Tensor, values: Tensor, rows: BlockRows, out_features: int, epilogue: Epilogue) -> Tensor:
    """Return ``activation(x @ W.T + bias + residual)`` with the tiles of W in ``values``, accumulated in fp32.

    Args:
        x: (M, K) fp32, fp16 or bf16, any strides. Columns without a tile are not read.
        values: (S, bn, bk) same dtype, any strides, any bn and bk; what lies beyond the edge of W is not read.
        rows: the tiles of each of the ``ceil(N / bn)`` rows of tiles.
        out_features: N.
        epilogue: its residual has any strides.

    Returns:
        (M, N).
    """
    y = x.new_empty(len(x), out_features, dtype=epilogue.dtype)
    if y.numel():
        few = len(x) <= FEW_ROWS
        tiles = _Tiles(
            values,
            rows,
            Axis.separate(out_features, values.shape[1], 64 if few else 128),
            _axis_k(x.shape[1], values.shape[2], x.dtype),
        )
        (_decode if few else _gather)(x, tiles, epilogue, y)
    return y


@dataclass(frozen=True)
class _Tiles:
    """Stored tiles and how a kernel cuts them: ``n`` into blocks, ``k`` into pieces of which a step gathers several."""

    values: Tensor
    rows: BlockRows
    n: Axis
    k: Axis

    @property
    def gathered(self) -> int:
        """The number of pieces in a step."""
        return max(1, STEP // self.values.itemsize // self.k.block)

    @property
    def constants(self) -> dict[str, int | bool | str]:
        n, k = self.n, self.k
        return {
            **dict(zip(("STRIDE_WS", "STRIDE_WN", "STRIDE_WK"), self.values.stride(), strict=True)),
            **{"TILE_N": n.tile, "PARTS_N": n.parts, "TILE_K": k.tile, "PARTS_K": k.parts, "GATHER": self.gathered},
            **{"EVEN_K": k.even, "WHOLE": k.tile % k.block == k.size % k.block == 0},
            **{"PRECISION": precision(), "BLOCK_N": n.block, "BLOCK_K": self.gathered * k.block},
        }


def _gather(x: Tensor, tiles: _Tiles, epilogue: Epilogue, y: Tensor) -> None:
    M = len(x)
    blocks = tiles.n.blocks
    block_gather_kernel[lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * blocks,)](
        x, tiles.values, *tiles.rows.lists, *epilogue.tensors, y,
        M, y.shape[1], x.shape[1],
        *x.stride(), *epilogue.strides, y.stride(0),
        m_class(M), blocks,
        **tiles.constants, ACTIVATION=epilogue.activation,
    )  # fmt: skip


def _decode(x: Tensor, tiles: _Tiles, epilogue: Epilogue, y: Tensor) -> None:
    M, K = x.shape
    N = y.shape[1]
    rows = tiles.rows
    steps = len(rows.cols) * tiles.k.parts // (tiles.gathered * len(rows.start))
    pieces = splits(tiles.n.blocks, steps)
    out = y if pieces == 1 else y.new_empty(pieces, M, N, dtype=torch.float32)
    block_decode_kernel[(tiles.n.blocks, pieces)](
        x, tiles.values, *rows.lists, *epilogue.tensors, out,
        M, N, K,
        *x.stride(), *epilogue.strides, N,
        **tiles.constants, SPLITS=pieces, ACTIVATION=epilogue.activation,
        BLOCK_M=max(16, triton.next_power_of_2(M)),
    )  # fmt: skip
    if pieces > 1:
        sum_pieces_kernel[(triton.cdiv(N, 256), M)](
            out, None, *epilogue.tensors, y,
            M, N,
            0, *epilogue.strides, N,
            SPLITS=pieces, ACTIVATION=epilogue.activation, BLOCK_N=256,
        )  # fmt: skip


def splits(rows: int, steps: int) -> int:
    """Return how many programs share a row of ``steps`` steps on average, a power of two (each is compiled)."""
    wanted = triton.next_power_of_2(triton.cdiv(PROGRAMS, rows))
    return min(wanted, 1 << max(1, steps // SPLIT_STEPS).bit_length() - 1)


def _axis_k(K: int, tile_k: int, dtype: torch.dtype) -> Axis:
    return Axis.separate(K, tile_k, STEP // dtype.itemsize, PIECE)
