"""The product with a 2:4 weight on sparse tensor cores. No host synchronisation."""

import functools

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from smart_kernels.kernels.common.pieces import sum_pieces_kernel
from smart_kernels.ops.common.arguments import m_class
from smart_kernels.ops.common.epilogue import Epilogue

from .packing import BYTES, TYPES, PackedWeight, step

SMALL = (128, 16)  # rows of W and of x in the smallest block of mma.sp
SHARE = 8  # steps that a program has at least, where several share the columns of a block
SUMMED = 128  # columns of y that a program adds up


def matmul(
    x: Tensor,
    packed: PackedWeight,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    scale: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return ``activation(x @ W.T + bias + residual)``, (M, N), accumulated in fp32, or exactly in int32.

    Args:
        x: (M, K) of the weight's dtype, any strides; copied unless its rows are whole and 16-byte aligned.
        packed: the weight (N, K).
        bias, residual, activation: (N,), (M, N) and a key of ``reference.common.epilogue.ACTIVATIONS``, or None.
        scale, dtype: for weights of 8 bits: () or (N,) fp32, what the sums are multiplied by; of the result.
    """
    _check(x, packed)
    y = like(x, packed.out_features, packed.kernel, dtype)
    if y.numel():
        launch = _mma if packed.kernel == "mma" else _wgmma
        with torch.cuda.device_of(x):  # Triton launches on the current GPU, not on that of the tensors
            launch(_aligned(x), packed, Epilogue(bias, residual, activation), scale, y)
    return y


def _check(x: Tensor, packed: PackedWeight) -> None:
    if x.dtype != packed.dtype or -(-x.shape[1] // 4) != packed.groups:
        shown = f"{tuple(x.shape)} {x.dtype}"
        raise ValueError(f"x must be (M, K) {packed.dtype} with {packed.groups} groups of four, got {shown}")


def like(x: Tensor, N: int, kernel: str, dtype: torch.dtype | None = None) -> Tensor:
    """Return an empty result of ``matmul`` for x (M, K); TMA writes rows of whole 16 bytes."""
    return x.new_empty(x.shape[0], N if kernel == "mma" else N + -N % 8, dtype=dtype)[:, :N]


def _mma(x: Tensor, packed: PackedWeight, epilogue: Epilogue, scale: Tensor | None, y: Tensor) -> None:
    count = splits(len(x), packed, _processors(x.device))
    if count == 1:
        _launch_mma(x, packed, epilogue, scale, y, 1)
        return
    M, N = y.shape
    pieces = x.new_empty(count * M, N, dtype=torch.int32 if x.dtype == torch.int8 else torch.float32)
    _launch_mma(x, packed, Epilogue(None, None, None), None, pieces, count)
    sum_pieces_kernel[(triton.cdiv(N, SUMMED), M)](
        pieces, scale, *epilogue.tensors, y, M, N, _stride(scale), *epilogue.strides, y.stride(0),
        SPLITS=count, ACTIVATION=epilogue.activation, BLOCK_N=SUMMED, num_warps=1,
    )  # fmt: skip


def _launch_mma(
    x: Tensor, packed: PackedWeight, epilogue: Epilogue, scale: Tensor | None, y: Tensor, count: int
) -> None:
    """Write the product to y, or where ``count`` programs share the columns of a block, the sums of each."""
    from smart_kernels.kernels.tensor_core.mma import sparse_mma_kernel

    (M, K), N = x.shape, packed.out_features
    rows, columns = packed.shape
    chunk = 16 // x.itemsize
    pairs = chunk // 8  # columns of two bytes
    grid = lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * (rows // meta["BLOCK_N"]), count)  # noqa: E731
    sparse_mma_kernel[grid](
        x.view(torch.int32), packed.weight.view(torch.int32), packed.metadata, scale, *epilogue.tensors, y,
        M, N, K // pairs, rows, columns // pairs,
        x.stride(0) // chunk, _stride(scale), *epilogue.strides, y.stride(0),
        m_class(M),
        EVEN_K=columns == K, TYPE=(TYPES | BYTES)[x.dtype], ACTIVATION=epilogue.activation, SPLIT=count > 1,
    )  # fmt: skip


def splits(M: int, packed: PackedWeight, processors: int) -> int:
    """Return how many programs share the columns of a block.

    Where blocks are fewer than multiprocessors, two per multiprocessor in all. Each has ``SHARE`` steps of 128 bytes of
    x at least, and writing and reading their sums again is at most a quarter of reading the weight, which is what few
    rows of x wait for.
    """
    rows, columns = packed.shape
    blocks = rows // SMALL[0] * triton.cdiv(M, SMALL[1])
    if blocks >= processors:
        return 1
    affordable = (packed.weight.nbytes + packed.metadata.nbytes) // (4 * 8 * M * packed.out_features)
    return max(1, min(2 * processors // blocks, columns // step(packed.dtype) // SHARE, affordable))


def _wgmma(x: Tensor, packed: PackedWeight, epilogue: Epilogue, scale: Tensor | None, y: Tensor) -> None:
    from smart_kernels.kernels.tensor_core.wgmma import sparse_wgmma_kernel

    M, rows = len(x), packed.shape[0]
    pairs = 2 // x.itemsize  # two columns of one byte are one
    type_ = (TYPES | BYTES)[x.dtype]
    programs = _processors(x.device)
    stride_s = None if scale is None else scale.stride(0) if scale.dim() else 0
    x_desc, w_desc, y_desc = _descriptors(x, packed, y)
    grid = lambda meta: (min(programs, triton.cdiv(M, meta["BLOCK_M"]) * (rows // 128)),)  # noqa: E731
    sparse_wgmma_kernel[grid](
        w_desc, None if w_desc is not None else packed.weight.view(torch.int32), packed.metadata, scale,
        *epilogue.tensors,
        M, packed.out_features, x.shape[1] // pairs, rows, packed.shape[1] // pairs,
        stride_s, *epilogue.strides,
        m_class(M),
        x_desc=x_desc, y_desc=y_desc,
        TYPE=type_, ACTIVATION=epilogue.activation, W_SHARED=w_desc is not None,
    )  # fmt: skip


def _descriptors(x: Tensor, packed: PackedWeight, y: Tensor) -> tuple:
    """Describe x, the weight (None where it goes straight to registers) and y; what has 8 bits as pairs of 16."""
    from triton.experimental.gluon.language import NVMMASharedLayout
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    wide, narrow, result = (NVMMASharedLayout(*s, 2) for s in ((128, 16), (64, 16), (128, 8 * y.itemsize)))
    weight = packed.weight
    if x.itemsize == 1:
        x, weight = x.view(torch.int16), weight.view(torch.int16)
    w_desc = TensorDescriptor.from_tensor(weight, [128, 32], narrow) if packed.kernel == "wgmma_ss" else None
    x_desc = TensorDescriptor(x, list(x.shape), [x.stride(0), 1], [16, 64], wide)
    return x_desc, w_desc, TensorDescriptor(y, list(y.shape), [y.stride(0), 1], [16, 64], result)


def _stride(scale: Tensor | None) -> int:
    return scale.stride(0) if scale is not None and scale.dim() else 0


@functools.cache
def _processors(device: torch.device) -> int:
    """Return the number of multiprocessors of a GPU; 1 where kernels are only compiled."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _aligned(x: Tensor) -> Tensor:
    """Return x as 16-byte copies can read it; columns are added where a row is not whole."""
    chunk = 16 // x.itemsize
    if x.shape[1] % chunk:
        bits = x.view(torch.int8) if x.itemsize == 1 else x  # fp8 cannot be padded
        return F.pad(bits, (0, -x.shape[1] % chunk)).view(x.dtype)
    fits = x.stride(1) == 1 and x.stride(0) % chunk == 0 and x.stride(0) >= x.shape[1] and x.data_ptr() % 16 == 0
    return x if fits else x.clone(memory_format=torch.contiguous_format)
