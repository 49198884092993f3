"""The persistent form of a product with stored blocks (sm_90)."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton.runtime.jit import JITFunction

from smart_kernels.kernels.common.block_matmul import block_matmul_kernel

from .arguments import m_class, strides
from .blocks import Product
from .launch import NOTHING, STATE, Descriptor, Launch, slot

DTYPES = torch.float16, torch.bfloat16
FEW_ROWS = 64  # of x, for which the smallest tile is twice too large
PIECE = 32  # rows of y that leave together, see the kernel


@dataclass(frozen=True)
class Form:
    """What the kernel is compiled for.

    Attributes:
        dtype, out: of x and W, of y.
        block: (BLOCK_N, BLOCK_K).
        transposed: whether blocks are stored (BLOCK_K, BLOCK_N).
        slots, order, bias: whether they are given.
        residual: its dtype, None without one.
    """

    dtype: torch.dtype
    out: torch.dtype
    block: tuple[int, int]
    transposed: bool
    slots: bool
    order: bool
    bias: bool
    residual: torch.dtype | None


def fits(tensors: tuple, product: Product) -> bool:
    """Return whether TMA can copy x, the blocks and y, and whole blocks follow each other along both axes."""
    x, values, *_, scale, _, _ = tensors
    n, k = product.n, product.k
    if not product.aligned or STATE.tracing or scale is not NOTHING or x.dtype not in DTYPES:
        return False
    whole = all(axis.stride == axis.block * axis.parts and axis.block % 64 == 0 for axis in (n, k))
    rows = x.stride(1) == 1 and x.stride(0) % 8 == 0 and x.stride(0) >= x.shape[1]
    stored = values.numel() > 0 and (values.is_contiguous() or values.mT.is_contiguous())
    result = (product.dtype or x.dtype) in DTYPES and n.size % 8 == 0
    return whole and rows and stored and result and x.shape[0] > FEW_ROWS


def form_of(tensors: tuple, product: Product) -> Form:
    """Return what the kernel has to be compiled for."""
    x, values, _, _, _, slots, order, _, bias, residual = tensors
    block = product.n.block, product.k.block
    given = (each is not NOTHING for each in (slots, order, bias))
    return Form(x.dtype, product.dtype or x.dtype, block, not values.is_contiguous(), *given, residual.dtype)


def configurations(form: Form) -> list[triton.Config]:
    """Return the launch configurations for such blocks; none where somebody has left it one for others only."""
    from smart_kernels.kernels.common.persistent import offered, persistent_matmul_kernel

    ours = offered(form.block[0], form.residual is not None)
    return [config for config in persistent_matmul_kernel.configs if config in ours]


def launched(tensors: tuple, product: Product, form: Form, programs: int) -> Callable[..., None]:
    """Return the launch for tensors like these, with that many programs."""
    from smart_kernels.kernels.common.persistent import TALLEST, persistent_matmul_kernel

    x, _, start, end, cols, slots, order, _, bias, residual = tensors
    M, n = x.shape[0], product.n
    rows = n.blocks * max(1, n.block // TALLEST)
    of_w, of_x, of_y = _descriptors(form.transposed)
    launch = Launch(
        persistent_matmul_kernel, lambda meta: (min(programs, triton.cdiv(M, meta["BLOCK_M"]) * rows),),
        *map(slot, (start, end, cols, slots, order, bias, residual)), of_w,
        M, n.size, product.k.size,
        *strides(residual),
        m_class(M), n.blocks,
        x_desc=of_x, y_desc=of_y,
        W_TRANSPOSED=form.transposed, ACTIVATION=product.activation, BLOCK_N=n.block, BLOCK_K=product.k.block,
    )  # fmt: skip

    def run(x, values, start, end, cols, slots, order, scale, bias, residual, y):
        launch(start, end, cols, slots, order, bias, residual, values, x, y)

    return run


def _descriptors(transposed: bool) -> tuple[Descriptor, Descriptor, Descriptor]:
    """Describe W, x and y."""
    from triton.experimental.gluon.language import NVMMASharedLayout
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    layout = NVMMASharedLayout(128, 16, 2)

    def of_w(values: Tensor):
        stored = values.mT if transposed else values
        return TensorDescriptor.from_tensor(stored.flatten(0, 1), [64, 64], layout)

    def of(rows: int) -> Descriptor:
        return Descriptor(lambda tensor: TensorDescriptor.from_tensor(tensor, [rows, 64], layout))

    return Descriptor(of_w), of(64), of(PIECE)


def key_of(tensors: tuple, product: Product) -> tuple:
    """Return what decides whether this form is the faster one: the tuners' key, and what each form is compiled for."""
    x = tensors[0]
    return m_class(x.shape[0]), product.n, product.k, product.activation, form_of(tensors, product)


@functools.cache
def sources() -> tuple[str, ...]:
    """Return the hashes of the kernels between which there is a choice."""
    from smart_kernels.kernels.common.persistent import persistent_matmul_kernel

    hashes = []
    for kernel in (block_matmul_kernel, persistent_matmul_kernel):
        while not isinstance(kernel, JITFunction):
            kernel = kernel.fn
        hashes.append(kernel.cache_key)
    return tuple(hashes)
