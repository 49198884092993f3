"""Products with a matrix of which only some blocks exist."""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.block_sparse_linear import block_grad_kernel, block_matmul_kernel
from smart_kernels.ops._blocks import Axis


@dataclass(frozen=True)
class BlockRows:
    """The stored blocks of each block row, all int32. No entry is read that no row owns.

    Attributes:
        start: (R,) first entry of each row in ``cols``.
        end: (R,) one past its last entry; ``start == end`` is an empty row.
        cols: (L,) block column of each entry.
        slots: (L,) which block of ``values`` each entry is; ``None``: entry ``j`` is block ``j``.
    """

    start: Tensor
    end: Tensor
    cols: Tensor
    slots: Tensor | None = None

    @classmethod
    def transposed(cls, rows: Tensor, cols: Tensor, count: int) -> "BlockRows":
        """The rows of W.T from the (L,) block row and column of each stored block; ``count`` block columns."""
        cols, slots = cols.sort(stable=True)
        columns = torch.arange(count, device=cols.device, dtype=cols.dtype)
        start, end = (torch.searchsorted(cols, columns, side=side, out_int32=True) for side in ("left", "right"))
        return cls(start, end, rows[slots].int(), slots.int())


def block_matmul(x: Tensor, values: Tensor, rows: BlockRows, bias: Tensor | None, n: Axis, k: Axis) -> Tensor:
    """``x @ W.T + bias`` with the blocks of W in ``values``, accumulated in fp32.

    Args:
        x: (M, K) fp32, fp16 or bf16, any strides. Columns without a block are not read.
        values: (S, n.block, k.block) same dtype, any strides; zero beyond the width of a block of ``k``.
        rows: the blocks of each of the ``n.blocks`` rows.
        bias: (N,) or None.
        n, k: the axes of W, ``N = n.size`` and ``K = k.size``.

    Returns:
        (M, N), dtype of ``x``.
    """
    M = x.shape[0]
    y = x.new_empty(M, n.size)
    bias = None if bias is None else bias.contiguous()
    if y.numel():
        block_matmul_kernel[lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * n.blocks,)](
            x, values, rows.start, rows.end, rows.cols, rows.slots, bias, y,
            M, n.size, k.size,
            *x.stride(), y.stride(0),
            m_class(M), n.blocks,
            STRIDE_WS=values.stride(0), STRIDE_WN=values.stride(1), STRIDE_WK=values.stride(2),
            STRIDE_N=n.stride, PARTS_N=n.parts, STRIDE_K=k.stride, PARTS_K=k.parts,
            EVEN_K=k.even, PRECISION=precision(), BLOCK_N=n.block, BLOCK_K=k.block,
        )  # fmt: skip
    return y


def block_grad(dy: Tensor, x: Tensor, rows: Tensor, cols: Tensor, n: Axis, k: Axis, dtype: torch.dtype) -> Tensor:
    """``dy[:, rows of the block].T @ x[:, columns of the block]`` for each block, accumulated in fp32.

    Args:
        dy: (M, N) and
        x: (M, K) of one dtype, any strides.
        rows, cols: (L,) int32, where each block is.
        n, k: the axes of W.
        dtype: of the result.

    Returns:
        (L, n.block, k.block), zero beyond the width of a block.
    """
    grad = x.new_zeros if x.shape[0] == 0 else x.new_empty
    grad = grad(len(rows), n.block, k.block, dtype=dtype)
    if x.shape[0] and grad.numel():
        block_grad_kernel[(len(rows),)](
            dy, x, rows, cols, grad,
            x.shape[0], n.size, k.size,
            *dy.stride(), *x.stride(),
            m_class(x.shape[0]),
            STRIDE_N=n.stride, PARTS_N=n.parts, STRIDE_K=k.stride, PARTS_K=k.parts,
            EVEN=n.even and k.even, PRECISION=precision(), BLOCK_N=n.block, BLOCK_K=k.block,
        )  # fmt: skip
    return grad


def m_class(M: int) -> int:
    """M rounded up to 16, 64, 256, 1024 or 4096: configs are tuned once per class."""
    return next((c for c in (16, 64, 256, 1024) if c >= M), 4096)


def precision() -> str:
    """How ``tl.dot`` multiplies fp32: torch's own switch decides."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
