"""Products with a matrix of which only some blocks exist."""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton.runtime import driver
from triton.tools.tensor_descriptor import TensorDescriptor

from smart_kernels.kernels.common.block_matmul import TMA_ROWS, block_grad_kernel, block_matmul_kernel

from .axis import Axis
from .launch import m_class, precision, strides


@dataclass(frozen=True)
class BlockRows:
    """The stored blocks of each block row, all int32. No entry is read that no row owns.

    Attributes:
        start: (R,) first entry of each row in ``cols``.
        end: (R,) one past its last entry; ``start == end`` is an empty row.
        cols: (L,) block column of each entry.
        slots: (L,) which block of ``values`` each entry is; ``None``: entry ``j`` is block ``j``.
        order: (R,) the rows in the order in which they are started; ``None``: as they come.
    """

    start: Tensor
    end: Tensor
    cols: Tensor
    slots: Tensor | None = None
    order: Tensor | None = None

    @classmethod
    def transposed(cls, rows: Tensor, cols: Tensor, count: int) -> "BlockRows":
        """The rows of W.T from the (L,) block row and column of each stored block; ``count`` block columns."""
        cols, slots = cols.sort(stable=True)
        columns = torch.arange(count, device=cols.device, dtype=cols.dtype)
        start, end = (torch.searchsorted(cols, columns, side=side, out_int32=True) for side in ("left", "right"))
        return cls(start, end, rows[slots].int(), slots.int())


def block_matmul(
    x: Tensor,
    values: Tensor,
    rows: BlockRows,
    bias: Tensor | None,
    n: Axis,
    k: Axis,
    *,
    scale: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``activation(x @ W.T + bias + residual)`` with the blocks of W in ``values``, accumulated in fp32.

    Args:
        x: (M, K) fp32, fp16, bf16 or, with a scale, fp8, any strides. Columns without a block are not read.
        values: (S, n.block, k.block) same dtype, any strides; zero beyond the width of a block of ``k``.
        rows: the blocks of each of the ``n.blocks`` rows.
        bias: (N,) or None.
        n, k: the axes of W, ``N = n.size`` and ``K = k.size``.
        scale: (S,) fp32, any stride: what the product with each block is multiplied by, or None.
        residual: (M, N) or None, any strides.
        activation: a key of ``reference.epilogue.ACTIVATIONS`` or None.
        dtype: of the result; that of ``x`` if None.

    Returns:
        (M, N).
    """
    M = x.shape[0]
    y = x.new_empty(M, n.size, dtype=dtype)
    bias = None if bias is None else bias.contiguous()
    x_tma, w_tma = descriptors(x, values, n, k)
    if y.numel():
        block_matmul_kernel[lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * n.blocks,)](
            x, values, rows.start, rows.end, rows.cols, rows.slots, rows.order, scale, bias, residual, y,
            x_tma, w_tma,
            M, n.size, k.size,
            *x.stride(), 0 if scale is None else scale.stride(0),
            *strides(residual), y.stride(0),
            m_class(M), n.blocks,
            STRIDE_WS=values.stride(0), STRIDE_WN=values.stride(1), STRIDE_WK=values.stride(2),
            STRIDE_N=n.stride, PARTS_N=n.parts, STRIDE_K=k.stride, PARTS_K=k.parts,
            EVEN_K=k.even, TMA_FITS=x_tma is not None, ACTIVATION=activation, PRECISION=precision(),
            BLOCK_N=n.block, BLOCK_K=k.block,
        )  # fmt: skip
    return y


def descriptors(x: Tensor, values: Tensor, n: Axis, k: Axis) -> tuple[TensorDescriptor | None, TensorDescriptor | None]:
    """Tensor-memory copies of ``x`` and ``values``, or twice None where Hopper is not there or they do not fit.

    A copy needs rows of 16-byte multiples from a 16-byte address, and cannot mask what a ragged block leaves out.
    """
    rows = values.flatten(0, 1) if values.is_contiguous() else None
    fits = has_tma() and rows is not None and k.even and x.element_size() == 2 and x.numel() and values.numel()
    if not fits or x.stride(1) != 1 or x.stride(0) % 8 or x.stride(0) < x.shape[1] or x.data_ptr() % 16:
        return None, None
    if values.data_ptr() % 16:
        return None, None
    pair = (x, [TMA_ROWS, k.block]), (rows, [n.block, k.block])
    return tuple(TensorDescriptor.from_tensor(tensor, block) for tensor, block in pair)


def has_tma() -> bool:
    """Whether the current device is a Hopper. Others rewrite such a copy into narrow loads or have their own rules."""
    if triton.knobs.runtime.interpret:
        return False
    target = driver.active.get_current_target()
    return target.backend == "cuda" and target.arch == 90


def needs_fp8() -> None:
    """Raise ``ValueError`` unless the current device multiplies float8_e4m3fn; the interpreter does."""
    if triton.knobs.runtime.interpret:
        return
    target = driver.active.get_current_target()
    if target.backend != "cuda" or target.arch < 89:
        name = f"sm_{target.arch}" if target.backend == "cuda" else target.arch
        raise ValueError(f"the device must be sm_89 or newer for products of float8_e4m3fn, got {name}")


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
