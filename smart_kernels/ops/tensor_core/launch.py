"""The product with a 2:4 weight on sparse tensor cores: what the GPU must be, which kernel, in which configuration."""

import contextlib
import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from triton.runtime.autotuner import Autotuner

from smart_kernels.ops.common.launch import m_class, strides

from .packing import BYTES, TYPES, PackedWeight


def supported(device: torch.device | str, kernel: str = "mma") -> str | None:
    """Return why ``kernel`` cannot run on ``device``; None when it may, see ``verified``."""
    device = torch.device(device)
    if device.type != "cuda" or torch.version.hip is not None:
        return "sparse tensor-core instructions need an NVIDIA GPU"
    major, minor = torch.cuda.get_device_capability(device)
    if kernel == "mma" and major < 8:
        return f"mma.sp needs sm_80 or later, this is sm_{major}{minor}"
    if kernel != "mma" and (major, minor) != (9, 0):
        return f"wgmma.sp exists on sm_90 only, this is sm_{major}{minor}"
    return _no_gluon()


def matmul(
    x: Tensor,
    packed: PackedWeight,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    scale: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return ``activation(x @ W.T + bias + residual)``, accumulated in fp32, or exactly in int32.

    Args:
        x: (M, K) of the weight's dtype, any strides; copied unless its rows are whole and 16-byte aligned.
        packed: the weight.
        bias, residual: (N,) and (M, N), or None.
        activation: None or a key of ``reference.epilogue.ACTIVATIONS``.
        scale, dtype: for weights of 8 bits: () or (N,) fp32, what the sums are multiplied by; of the result.

    Returns:
        (M, N), dtype of ``x`` unless given.
    """
    if x.dtype != packed.dtype or -(-x.shape[1] // 4) != packed.groups:
        shown = f"{tuple(x.shape)} {x.dtype}"
        raise ValueError(f"x must be (M, K) {packed.dtype} with {packed.groups} groups of four, got {shown}")
    x = _aligned(x)
    bias = None if bias is None else bias.contiguous()
    with torch.cuda.device_of(x):  # Triton launches on the current GPU, not on that of the tensors
        if packed.kernel == "mma":
            return _mma(x, packed, bias, residual, activation, scale, dtype)
        return _wgmma(x, packed, bias, residual, activation, scale, dtype)


def like(x: Tensor, N: int, kernel: str, dtype: torch.dtype | None = None) -> Tensor:
    """Return an empty result of ``matmul`` for x (M, K); TMA writes rows of whole 16 bytes."""
    return x.new_empty(x.shape[0], N if kernel == "mma" else N + -N % 8, dtype=dtype)[:, :N]


def lacks(device: torch.device | str, dtype: torch.dtype) -> str | None:
    """Return why ``device``, which has the instruction of 16 bits, lacks mma.sp of this dtype; None when it has it."""
    if dtype != torch.float8_e4m3fn:
        return None
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) == (8, 9) or major == 12:
        return None
    return f"mma.sp of fp8 needs sm_89 or sm_12x, others convert it to fp16, this is sm_{major}{minor}"


def words_kernel(device: torch.device | str, dtype: torch.dtype) -> str:
    """Return which kernel multiplies 8-bit weights packed for "mma".

    On sm_90, which lacks mma.sp of fp8, wgmma.sp reads the same words.
    """
    hopper = torch.cuda.get_device_capability(device) == (9, 0)
    return "wgmma_rs" if hopper and lacks(device, dtype) is not None else "mma"


def offered(kernel: str, dtype: torch.dtype) -> list[triton.Config]:
    """Return the configurations that may be chosen for some shape."""
    from smart_kernels.kernels.tensor_core import mma as sparse_mma
    from smart_kernels.kernels.tensor_core import wgmma as sparse_wgmma

    configs = tuner(kernel).configs
    if kernel == "mma":
        return [c for c in configs if dtype != torch.float8_e4m3fn or sparse_mma.few_sums(c)]
    return [c for c in configs if dtype not in BYTES or sparse_wgmma.few_sums(c)]


@contextlib.contextmanager
def forced(kernel: str, config: triton.Config) -> Iterator[None]:
    """Launch ``kernel`` with this configuration, untuned."""
    tuned = tuner(kernel)
    before, tuned.configs = tuned.configs, [config]
    try:
        yield
    finally:
        tuned.configs = before


def tuner(kernel: str) -> Autotuner:
    """Return the tuned kernel behind a name of ``KERNELS``."""
    from smart_kernels.kernels.tensor_core import mma as sparse_mma
    from smart_kernels.kernels.tensor_core import wgmma as sparse_wgmma

    return sparse_mma.sparse_mma_kernel if kernel == "mma" else sparse_wgmma.sparse_wgmma_kernel


@functools.cache
def _no_gluon() -> str | None:
    """Return why the kernels cannot even be imported; None when they can."""
    try:
        import smart_kernels.kernels.tensor_core.mma
        import smart_kernels.kernels.tensor_core.wgmma  # noqa: F401
    except Exception as error:
        return f"triton {triton.__version__} has another Gluon: {type(error).__name__}: {error}"[:200]
    return None


def _mma(x, packed, bias, residual, activation, scale, dtype) -> Tensor:
    from smart_kernels.kernels.tensor_core.mma import sparse_mma_kernel

    (M, K), (N, (rows, columns)) = x.shape, (packed.out_features, packed.shape)
    y = like(x, N, packed.kernel, dtype)
    if not y.numel():
        return y
    chunk = 16 // x.itemsize
    pairs = chunk // 8  # columns of two bytes
    grid = lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * (rows // meta["BLOCK_N"]),)  # noqa: E731
    sparse_mma_kernel[grid](
        x.view(torch.int32), packed.weight.view(torch.int32), packed.metadata, scale, bias, residual, y,
        M, N, K // pairs, rows, columns // pairs,
        x.stride(0) // chunk, scale.stride(0) if scale is not None and scale.dim() else 0, *strides(residual),
        y.stride(0),
        m_class(M),
        EVEN_K=columns == K, TYPE=(TYPES | BYTES)[x.dtype], ACTIVATION=activation,
    )  # fmt: skip
    return y


def _wgmma(x, packed, bias, residual, activation, scale, dtype) -> Tensor:
    from triton.experimental.gluon.language import NVMMASharedLayout
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    from smart_kernels.kernels.tensor_core.wgmma import sparse_wgmma_kernel

    (M, K), (N, (rows, columns)), weight = x.shape, (packed.out_features, packed.shape), packed.weight
    y = like(x, N, packed.kernel, dtype)
    if not y.numel():
        return y
    shared = packed.kernel == "wgmma_ss"
    wide, narrow, result = (NVMMASharedLayout(*s, 2) for s in ((128, 16), (64, 16), (128, 8 * y.itemsize)))
    stride_s = None if scale is None else scale.stride(0) if scale.dim() else 0
    type_ = (TYPES | BYTES)[x.dtype]
    if x.itemsize == 1:  # two columns are one
        x, weight, K, columns = x.view(torch.int16), weight.view(torch.int16), K // 2, columns // 2
    programs = _processors(x.device)
    grid = lambda meta: (min(programs, triton.cdiv(M, meta["BLOCK_M"]) * (rows // 128)),)  # noqa: E731
    sparse_wgmma_kernel[grid](
        TensorDescriptor.from_tensor(weight, [128, 32], narrow) if shared else None,
        None if shared else weight.view(torch.int32), packed.metadata, scale, bias, residual,
        M, N, K, rows, columns,
        stride_s, *strides(residual),
        m_class(M),
        x_desc=TensorDescriptor(x, [M, K], [x.stride(0), 1], [16, 64], wide),
        y_desc=TensorDescriptor(y, [M, N], [y.stride(0), 1], [16, 64], result),
        TYPE=type_, ACTIVATION=activation, W_SHARED=shared,
    )  # fmt: skip
    return y


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
