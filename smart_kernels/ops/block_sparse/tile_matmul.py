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

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.block_sparse.decode import block_decode_kernel, sum_pieces_kernel
from smart_kernels.kernels.block_sparse.gather import block_gather_kernel
from smart_kernels.ops.common.axis import Axis
from smart_kernels.ops.common.block_matmul import BlockRows
from smart_kernels.ops.common.launch import m_class, precision, strides

FEW_ROWS = 64
STEP = 128  # bytes of each row of x and W that one step of the loop reads
PIECE = 8  # shortest piece: 16 bytes of a 2-byte dtype
PROGRAMS = 132  # what fills an H100 or H200, one on each multiprocessor
SPLIT_STEPS = 4  # a shorter share of a row would not fill its pipeline


def takes_tiles(M: int, tile_k: int, dtype: torch.dtype) -> bool:
    """Whether ``tile_matmul`` is made for M rows of x and tiles of ``tile_k`` columns."""
    return M <= FEW_ROWS or _axis_k(tile_k, tile_k, dtype).block * dtype.itemsize < STEP


def tile_matmul(
    x: Tensor,
    values: Tensor,
    rows: BlockRows,
    bias: Tensor | None,
    out_features: int,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``activation(x @ W.T + bias + residual)`` with the tiles of W in ``values``, accumulated in fp32.

    Args:
        x: (M, K) fp32, fp16 or bf16, any strides. Columns without a tile are not read.
        values: (S, bn, bk) same dtype, any strides, any bn and bk; what lies beyond the edge of W is not read.
        rows: the tiles of each of the ``ceil(N / bn)`` rows of tiles.
        bias: (N,) or None.
        out_features: N.
        activation: a key of ``reference.epilogue.ACTIVATIONS`` or None.
        residual: (M, N) or None, any strides.
        dtype: of the result, default that of ``x``.

    Returns:
        (M, N).
    """
    (M, K), (_, bn, bk) = x.shape, values.shape
    y = x.new_empty(M, out_features, dtype=dtype)
    if not y.numel():
        return y
    k, decode = _axis_k(K, bk, x.dtype), M <= FEW_ROWS
    n = Axis.separate(out_features, bn, 64 if decode else 128)
    gather = max(1, STEP // x.dtype.itemsize // k.block)
    bias = None if bias is None else bias.contiguous()
    tensors = x, values, rows.start, rows.end, rows.cols, rows.slots
    cut = {
        **dict(zip(("STRIDE_WS", "STRIDE_WN", "STRIDE_WK"), values.stride(), strict=True)),
        **{"TILE_N": bn, "PARTS_N": n.parts, "TILE_K": bk, "PARTS_K": k.parts, "GATHER": gather},
        **{"EVEN_K": k.even, "WHOLE": bk % k.block == K % k.block == 0},
        **{"PRECISION": precision(), "BLOCK_N": n.block, "BLOCK_K": gather * k.block},
    }
    if decode:
        pieces = splits(n.blocks, len(rows.cols) * k.parts // (gather * len(rows.start)))
        _decode(tensors, y, bias, residual, activation, n, K, pieces, cut)
    else:
        block_gather_kernel[lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * n.blocks,)](
            *tensors, bias, residual, y,
            M, out_features, K,
            *x.stride(), *strides(residual), y.stride(0),
            m_class(M), n.blocks,
            **cut, ACTIVATION=activation,
        )  # fmt: skip
    return y


def splits(rows: int, steps: int) -> int:
    """How many programs share a row of blocks of ``steps`` steps on average, a power of two (each is compiled)."""
    wanted = triton.next_power_of_2(triton.cdiv(PROGRAMS, rows))
    return min(wanted, 1 << max(1, steps // SPLIT_STEPS).bit_length() - 1)


def _decode(tensors, y, bias, residual, activation, n: Axis, K: int, pieces: int, cut: dict) -> None:
    M, N = y.shape
    out = y if pieces == 1 else y.new_empty(pieces, M, N, dtype=torch.float32)
    block_decode_kernel[(n.blocks, pieces)](
        *tensors, bias, residual, out,
        M, N, K,
        *tensors[0].stride(), *strides(residual), N,
        **cut, SPLITS=pieces, ACTIVATION=activation, BLOCK_M=max(16, triton.next_power_of_2(M)),
    )  # fmt: skip
    if pieces > 1:
        sum_pieces_kernel[(triton.cdiv(N, 256), M)](
            out, bias, residual, y,
            M, N,
            *strides(residual),
            SPLITS=pieces, ACTIVATION=activation, BLOCK_N=256,
        )  # fmt: skip


def _axis_k(K: int, tile_k: int, dtype: torch.dtype) -> Axis:
    return Axis.separate(K, tile_k, STEP // dtype.itemsize, PIECE)
