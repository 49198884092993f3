"""The product with a 2:4 weight on ``wgmma.sp``, decided once for tensors alike."""

from collections.abc import Callable

import torch
import triton
from torch import Tensor

from smart_kernels.ops.common.arguments import m_class, strides
from smart_kernels.ops.common.launch import NOTHING, TENSOR, Descriptor, Launch, slot

from . import device
from .mma import stride_of
from .packing import BYTES, TYPES, PackedWeight


def plan_wgmma(
    x: Tensor, packed: PackedWeight, others: tuple, activation: str | None, dtype: torch.dtype
) -> Callable[..., None]:
    """Plan the product with ready x; ``others`` are scale, bias and residual."""
    from smart_kernels.kernels.tensor_core.wgmma import sparse_wgmma_kernel

    (M, K), N = x.shape, packed.out_features
    rows, columns = packed.shape
    pairs = 2 // x.itemsize  # two columns of one byte are one
    programs = device.processors(packed.weight.device)
    scale, _, residual = others
    of_x, of_w, of_y = _descriptors(x, packed, dtype)
    launch = Launch(
        sparse_wgmma_kernel, lambda meta: (min(programs, triton.cdiv(M, meta["BLOCK_M"]) * (rows // 128)),),
        of_w, None if of_w is not None else TENSOR, TENSOR, *map(slot, others),
        M, N, K // pairs, rows, columns // pairs,
        None if scale is NOTHING else stride_of(scale), *strides(residual),
        m_class(M),
        x_desc=of_x, y_desc=of_y,
        TYPE=(TYPES | BYTES)[x.dtype], ACTIVATION=activation, W_SHARED=of_w is not None,
    )  # fmt: skip
    if of_w is not None:
        return lambda x, weight, *others: launch(weight, *others[:-1], x, others[-1])
    return lambda x, weight, *others: launch(weight.view(torch.int32), *others[:-1], x, others[-1])


def _descriptors(
    x: Tensor, packed: PackedWeight, dtype: torch.dtype
) -> tuple[Descriptor, Descriptor | None, Descriptor]:
    """Describe x, the weight (None where it goes straight to registers) and y; what has 8 bits as pairs of 16."""
    from triton.experimental.gluon.language import NVMMASharedLayout
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    wide, narrow, result = (NVMMASharedLayout(*s, 2) for s in ((128, 16), (64, 16), (128, 8 * dtype.itemsize)))
    pairs, row = 2 // x.itemsize, x.stride(0)
    (M, K), N = x.shape, packed.out_features

    def sixteen(tensor):
        return tensor.view(torch.int16) if pairs == 2 else tensor

    def of_x(x):
        return TensorDescriptor(sixteen(x), [M, K // pairs], [row // pairs, 1], [16, 64], wide)

    def of_w(weight):
        return TensorDescriptor.from_tensor(sixteen(weight), [128, 32], narrow)

    def of_y(y):
        return TensorDescriptor(y, [M, N], [width(N), 1], [16, 64], result)

    return Descriptor(of_x), Descriptor(of_w) if packed.kernel == "wgmma_ss" else None, Descriptor(of_y)


def width(N: int) -> int:
    """Return how many columns a result of N has in memory: TMA writes rows of whole 16 bytes."""
    return N + -N % 8
