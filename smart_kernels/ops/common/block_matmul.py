"""Products with a matrix of which only some blocks exist."""

import functools
from collections.abc import Callable

import torch
import triton
from torch import Tensor
from triton.runtime import driver
from triton.tools.tensor_descriptor import TensorDescriptor

from smart_kernels.kernels.common.block_grad import block_grad_kernel
from smart_kernels.kernels.common.block_matmul import block_matmul_kernel
from smart_kernels.kernels.common.tuning import hopper

from . import exact
from .arguments import m_class, processors, strides
from .axis import Axis, constants
from .blocks import Product, block_strides
from .capture import capturing
from .fastest import Fastest
from .launch import NOTHING, TENSOR, Descriptor, Launch, slot
from .persistent import configurations, fits, form_of, key_of, launched, sources


def plan_matmul(x, values, start, end, cols, slots, order, scale, bias, residual, product: Product) -> Callable:
    """Plan ``activation(x @ W.T + bias + residual)``, accumulated in fp32, for tensors like these.

    Args:
        x: (M, K) fp32, fp16, bf16 or, with a scale, fp8, any strides. Columns without a block are not read.
        values: (S, n.block, k.block) same dtype, any strides, zero beyond the width of a block of ``k``.
        start, end, cols, slots, order: as in ``BlockRows``; they, and values, may be on the meta device.
        scale: (S,) fp32, any stride: what the product with each block is multiplied by.
        bias: (N,), contiguous.
        residual: (M, N), any strides.
        product: all else.

    Returns:
        A function that takes the tensors, ``NOTHING`` for each from slots on that is not there, and returns the (M, N)
        product.
    """
    M, N = x.shape[0], product.n.size
    new = functools.partial(torch.empty, (M, N), dtype=product.dtype or x.dtype, device=x.device)
    if not M * N:
        return lambda *tensors: new()
    tensors = (x, values, start, end, cols, slots, order, scale, bias, residual)
    multiply = _plan_ways(tensors, product)

    def run(*tensors):
        y = new()
        multiply(*tensors, y)
        return y

    return run


def _plan_ways(tensors: tuple, product: Product) -> Callable[..., None]:
    """Return the launch of the product, or the choice between two, given the tensors and y."""
    rows = tma_rows(tensors, product)
    launch = _matmul_launch(tensors, product, rows)

    def plain(x, values, *others):
        launch(x, values, *others, x, values)

    plain = plain if rows else launch
    persistent = _plan_persistent(tensors, product) if hopper() else None
    if persistent is None:
        return plain
    return Fastest({"plain": plain, "persistent": persistent}, sources() + key_of(tensors, product))


def _plan_persistent(tensors: tuple, product: Product) -> Callable[..., None] | None:
    """Return the launch of the persistent form; None where it does not fit or has not proved right."""
    if not fits(tensors, product) or capturing():
        return None
    device = tensors[0].device
    form = form_of(tensors, product)
    if exact.verified(device, form) is not None or not configurations(form):
        return None
    return launched(tensors, product, form, processors(device))


def _matmul_launch(tensors: tuple, product: Product, rows: int) -> Launch:
    x, values, *_, scale, _, residual = tensors
    n, k = product.n, product.k
    of_x = Descriptor(lambda x: TensorDescriptor.from_tensor(x, [rows, k.block])) if rows else None
    of_w = Descriptor(lambda w: TensorDescriptor.from_tensor(w.flatten(0, 1), [n.block, k.block])) if rows else None
    M, blocks = x.shape[0], n.blocks
    return Launch(
        block_matmul_kernel, lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * blocks,),
        *map(slot, tensors), TENSOR,
        of_x, of_w,
        M, n.size, k.size,
        *x.stride(), 0 if scale is NOTHING else scale.stride(0), *strides(residual), n.size,
        m_class(M), blocks,
        **block_strides(values), **constants(n, k), EVEN_K=k.even, TMA_ROWS=rows,
        ACTIVATION=product.activation, PRECISION=product.precision,
    )  # fmt: skip


def tma_rows(tensors: tuple, product: Product) -> int:
    """Return the rows of x that one copy by descriptor takes, 0 for none.

    They are made before the configuration is chosen: 256 where W on the left suits, see ``kernels.common.tuning``.
    """
    x, values, *_, residual = tensors
    if not (product.aligned and fits_tma(x, values, product.k)):
        return 0
    roomy = residual is NOTHING and product.activation != "gelu"
    return 256 if roomy and product.n.block == 128 and m_class(x.shape[0]) > 256 else 128


def fits_tma(x: Tensor, values: Tensor, k: Axis) -> bool:
    """Return whether the tensor memory accelerator of a Hopper copies blocks of aligned ``x`` and of the values.

    Others turn such a copy into narrow loads, or have other rules. A copy needs rows of 16-byte multiples, and cannot
    mask what a ragged block leaves out.
    """
    fits = hopper() and values.is_contiguous() and k.even and x.element_size() == 2 and x.numel() and values.numel()
    return bool(fits) and x.stride(1) == 1 and x.stride(0) % 8 == 0 and x.stride(0) >= x.shape[1]


def needs_fp8() -> None:
    """Raise ``ValueError`` unless the current device multiplies float8_e4m3fn; the interpreter does."""
    if triton.knobs.runtime.interpret:
        return
    target = driver.active.get_current_target()
    if target.backend != "cuda" or target.arch < 89:
        name = f"sm_{target.arch}" if target.backend == "cuda" else target.arch
        raise ValueError(f"the device must be sm_89 or newer for products of float8_e4m3fn, got {name}")


def whole_copies(dy: Tensor, x: Tensor, n: Axis, k: Axis) -> bool:
    """Return whether blocks and rows lie so that each copy of a gradient may have 16 bytes, if dy and x begin so."""
    steps = (dy.stride(0), x.stride(0), n.stride, k.stride)
    return dy.stride(1) == x.stride(1) == 1 and all(step % 16 == 0 for step in steps)


def plan_grad(dy, x, count: int, n: Axis, k: Axis, dtype: torch.dtype, aligned: bool, precision: str) -> Callable:
    """Plan ``dy[:, rows of the block].T @ x[:, columns of the block]`` for each block, accumulated in fp32.

    Args:
        dy, x: (M, N) and (M, K) of one dtype, any strides.
        count: L, the number of blocks.
        n, k: the axes of the weight (N, K).
        dtype: of the result.
        aligned: whether dy and x lie at multiples of 16 bytes.
        precision: of ``tl.dot`` in fp32.

    Returns:
        A function that takes dy, x and start, end and cols as in ``BlockRows``, and returns the (L, n.block, k.block)
        gradients of the blocks, zero beyond the width of a block.
    """
    M = x.shape[0]
    new = torch.empty if M else torch.zeros
    grad = functools.partial(new, (count, n.block, k.block), dtype=dtype, device=x.device)
    if not M * count:
        return lambda *tensors: grad()
    longest = min(count, k.blocks)

    def programs(meta):
        return (n.blocks * triton.cdiv(longest, max(1, meta["WIDTH"] // k.block)),)

    launch = Launch(
        block_grad_kernel, programs, TENSOR, TENSOR, TENSOR, TENSOR, TENSOR, TENSOR,
        M, n.size, k.size,
        *dy.stride(), *x.stride(),
        m_class(M), longest,
        **constants(n, k), EVEN_N=n.even, EVEN_K=k.even, WHOLE_COPIES=aligned and whole_copies(dy, x, n, k),
        PRECISION=precision,
    )  # fmt: skip

    def run(*tensors):
        dvalues = grad()
        launch(*tensors, dvalues)
        return dvalues

    return run
