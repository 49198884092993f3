"""2:4 weights on sparse tensor cores: what the GPU must be, the packed form, the product, and whether it is right here.

The kernels are Gluon, which triton calls experimental, with PTX inside. So nothing is chosen because of a version: the
device must fit, Gluon must import, and the first use compares the product with the plain formula.
"""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from triton.runtime.autotuner import Autotuner
from triton.runtime.errors import OutOfResources

from smart_kernels.ops._matmul import m_class

KERNELS = ("mma", "wgmma_ss", "wgmma_rs")  # wgmma: W through shared memory, or straight to registers
TYPES = {torch.float16: "f16", torch.bfloat16: "bf16"}
TRIALS = (200, 256, 640), (300, 500, 1092)  # M, N, K: no edges along N and K; edges everywhere
ROWS, COLUMNS = 128, 64  # what a packed weight is padded to
NO_GROUP = 0x44  # two groups that keep their first two weights, for the padding: 0 and 1 rise


@dataclass(frozen=True)
class PackedWeight:
    """A 2:4 weight as one kernel reads it.

    Attributes:
        kernel: of ``KERNELS``.
        weight: "wgmma_ss": (N', K' / 2) kept values, rows padded; else (N' / 16, K' / 32, 32, 4) int32 fragments.
        metadata: (N' / 64, K' / 64, 4, 32) int32; layout in ``kernels.sparse_mma``.
        out_features, groups: N and ceil(K / 4) of the weight.
        dtype: of the values.
    """

    kernel: str
    weight: Tensor
    metadata: Tensor
    out_features: int
    groups: int
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """(N', K')."""
        return 64 * self.metadata.shape[0], 64 * self.metadata.shape[1]


def supported(device: torch.device | str, kernel: str = "mma") -> str | None:
    """Why ``kernel`` cannot run on ``device``; None when it may, see ``verified``."""
    device = torch.device(device)
    if device.type != "cuda" or torch.version.hip is not None:
        return "sparse tensor-core instructions need an NVIDIA GPU"
    major, minor = torch.cuda.get_device_capability(device)
    if kernel == "mma" and major < 8:
        return f"mma.sp needs sm_80 or later, this is sm_{major}{minor}"
    if kernel != "mma" and (major, minor) != (9, 0):
        return f"wgmma.sp exists on sm_90 only, this is sm_{major}{minor}"
    return _no_gluon()


def pack(values: Tensor, indices: Tensor, kernel: str = "mma") -> PackedWeight:
    """The saved 2:4 form -> that of ``kernel``: a permutation, on the device of ``values``.

    Args:
        values: (N, 2 G) fp16 or bf16, the two kept weights of each group of four along K, G = ceil(K / 4).
        indices: (N, ceil(G / 2)) uint8, four bits a group: where its two weights were, rising, lowest bits first.
        kernel: of ``KERNELS``.

    Raises:
        ValueError: a shape, dtype or kernel does not fit.
    """
    _check_saved(values, indices, kernel)
    N, groups = len(values), values.shape[1] // 2
    rows, more = -N % ROWS, -groups % (COLUMNS // 4)
    nibbles = F.pad(indices, (0, (groups + more) // 2 - indices.shape[1], 0, rows), value=NO_GROUP)
    if groups % 2:  # the upper half of the last byte belongs to the padding
        nibbles[:, groups // 2] = nibbles[:, groups // 2] & 15 | NO_GROUP & 240
    values = F.pad(values, (0, 2 * more, 0, rows))
    weight = values if kernel == "wgmma_ss" else _fragments(values)
    return PackedWeight(kernel, weight.contiguous(), _metadata(nibbles), N, groups, values.dtype)


def matmul(
    x: Tensor,
    packed: PackedWeight,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """``activation(x @ W.T + bias + residual)``, accumulated in fp32.

    Args:
        x: (M, K) of the weight's dtype, any strides; copied unless its rows are whole and 16-byte aligned.
        packed: the weight.
        bias, residual: (N,) and (M, N), or None.
        activation: None or a key of ``reference.epilogue.ACTIVATIONS``.

    Returns:
        (M, N), dtype of ``x``.
    """
    if x.dtype != packed.dtype or -(-x.shape[1] // 4) != packed.groups:
        shown = f"{tuple(x.shape)} {x.dtype}"
        raise ValueError(f"x must be (M, K) {packed.dtype} with {packed.groups} groups of four, got {shown}")
    x = _aligned(x)
    bias = None if bias is None else bias.contiguous()
    launch = _mma if packed.kernel == "mma" else _wgmma
    return launch(x, packed, bias, residual, activation)


@functools.cache
def verified(device: torch.device | str, kernel: str = "mma", dtype: torch.dtype = torch.bfloat16) -> str | None:
    """Why ``kernel`` must not be used on ``device``; None after all its configurations have computed random integers
    exactly, with edges and without. Remembered per process; compiles much and synchronises."""
    if (reason := supported(device, kernel)) is not None:
        return reason
    device, version = torch.device(device), f"triton {triton.__version__}"
    try:
        for config in tuner(kernel).configs:
            for shape in TRIALS:
                if not _right(device, kernel, config, shape, dtype):
                    return f"{kernel} is wrong with {version}, {dtype} at M, N, K = {shape}: {config}"
    except Exception as error:  # whatever a triton to come may raise
        return f"{kernel} does not run with {version}: {type(error).__name__}: {error}"[:200]
    return None


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
    """The tuned kernel behind a name of ``KERNELS``."""
    from smart_kernels.kernels import sparse_mma, sparse_wgmma

    return sparse_mma.sparse_mma_kernel if kernel == "mma" else sparse_wgmma.sparse_wgmma_kernel


def integers(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Random x, values, indices, bias and residual of M, N, K, and relu(x @ W.T + bias + residual): exact but for the
    rounding to ``dtype``, in any order of the sums."""
    (M, N, K), draw = shape, functools.partial(torch.randint, device=device)
    groups = -(-K // 4)
    values, first = draw(-4, 5, (N, 2 * groups)), draw(0, 3, (N, groups))
    second = first + 1 + draw(0, 3, (N, groups)) % (3 - first)
    x, bias, residual = (draw(-4, 5, size) for size in ((M, K), (N,), (M, N)))
    places = 4 * torch.arange(groups, device=device)[:, None] + torch.stack([first, second], -1)
    dense = torch.zeros(N, 4 * groups, device=device, dtype=torch.float64).scatter_(
        1, places.flatten(1), values.double()
    )
    y = (x.double() @ dense[:, :K].T + bias + residual).relu()
    nibbles = F.pad(first + 4 * second, (0, groups % 2), value=4).unflatten(1, (-1, 2))
    indices = (nibbles[..., 0] + 16 * nibbles[..., 1]).to(torch.uint8)
    return x.to(dtype), values.to(dtype), indices, bias.to(dtype), residual.to(dtype), y.to(dtype)


def _right(device, kernel: str, config: triton.Config, shape: tuple[int, int, int], dtype: torch.dtype) -> bool:
    x, values, indices, bias, residual, expected = integers(shape, dtype, device)
    try:
        with forced(kernel, config):
            y = matmul(x, pack(values, indices, kernel), bias, residual, "relu")
    except OutOfResources:
        return True  # the tuner drops it
    return torch.equal(y, expected)


@functools.cache
def _no_gluon() -> str | None:
    """Why the kernels cannot even be imported; None when they can."""
    try:
        import smart_kernels.kernels.sparse_mma
        import smart_kernels.kernels.sparse_wgmma  # noqa: F401
    except Exception as error:
        return f"triton {triton.__version__} has another Gluon: {type(error).__name__}: {error}"[:200]
    return None


def _mma(x, packed, bias, residual, activation) -> Tensor:
    from smart_kernels.kernels.sparse_mma import sparse_mma_kernel

    (M, K), (N, (rows, columns)) = x.shape, (packed.out_features, packed.shape)
    y = x.new_empty(M, N)
    if not y.numel():
        return y
    grid = lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * (rows // meta["BLOCK_N"]),)  # noqa: E731
    sparse_mma_kernel[grid](
        x.view(torch.int32), packed.weight, packed.metadata, bias, residual, y,
        M, N, K, rows, columns,
        x.stride(0) // 8, *_strides(residual), y.stride(0),
        m_class(M),
        EVEN_K=columns == K, TYPE=TYPES[x.dtype], ACTIVATION=activation,
    )  # fmt: skip
    return y


def _wgmma(x, packed, bias, residual, activation) -> Tensor:
    from triton.experimental.gluon.language import NVMMASharedLayout
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    from smart_kernels.kernels.sparse_wgmma import sparse_wgmma_kernel

    (M, K), (N, (rows, columns)) = x.shape, (packed.out_features, packed.shape)
    y = x.new_empty(M, N + -N % 8)  # TMA writes rows of whole 16 bytes
    if not y.numel():
        return y[:, :N]
    shared = packed.kernel == "wgmma_ss"
    wide, narrow = NVMMASharedLayout(128, 16, 2), NVMMASharedLayout(64, 16, 2)
    y_rows = TensorDescriptor(y, [M, N], [y.stride(0), 1], [16, 64], wide)
    programs = _processors(x.device)
    grid = lambda meta: (min(programs, triton.cdiv(M, meta["BLOCK_M"]) * (rows // 128)),)  # noqa: E731
    sparse_wgmma_kernel[grid](
        TensorDescriptor(x, [M, K], [x.stride(0), 1], [16, 64], wide),
        TensorDescriptor.from_tensor(packed.weight, [128, 32], narrow) if shared else None,
        None if shared else packed.weight, packed.metadata, bias, residual, y_rows,
        M, N, K, rows, columns,
        *_strides(residual),
        m_class(M),
        TYPE=TYPES[x.dtype], ACTIVATION=activation, W_SHARED=shared,
    )  # fmt: skip
    return y[:, :N]


@functools.cache
def _processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; 1 where kernels are only compiled."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _strides(residual: Tensor | None) -> tuple[int, int]:
    return (0, 0) if residual is None else residual.stride()


def _aligned(x: Tensor) -> Tensor:
    """x as 16-byte copies can read it; columns are added where a row is not whole."""
    if x.shape[1] % 8:
        return F.pad(x, (0, -x.shape[1] % 8))
    fits = x.stride(1) == 1 and x.stride(0) % 8 == 0 and x.stride(0) >= x.shape[1] and x.data_ptr() % 16 == 0
    return x if fits else x.clone(memory_format=torch.contiguous_format)


def _fragments(values: Tensor) -> Tensor:
    """(N', K' / 2) -> (N' / 16, K' / 32, 32 lanes, 4 words): lane 4g + t has word t + 4c of row g + 8h at 2c + h."""
    words = values.view(torch.int32)
    n, k = words.shape
    return words.view(n // 16, 2, 8, k // 8, 2, 4).permute(0, 3, 2, 5, 4, 1).reshape(n // 16, k // 8, 32, 4)


def _metadata(nibbles: Tensor) -> Tensor:
    """(N', K' / 8) bytes -> (N' / 64, K' / 64, 4, 32): 16 bits are 16 columns of a row, a word is rows g and g + 8."""
    halves = nibbles.contiguous().view(torch.int16)
    n, k = halves.shape  # tiles of 64, of 16, half, g | steps of 64, of 32, of 16
    halves = halves.view(n // 64, 4, 2, 8, k // 4, 2, 2).permute(0, 4, 1, 3, 5, 6, 2)
    return halves.reshape(n // 64, k // 4, 4, 64).view(torch.int32)


def _check_saved(values: Tensor, indices: Tensor, kernel: str) -> None:
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
    if values.dtype not in TYPES or values.dim() != 2 or values.shape[1] % 2:
        raise ValueError(f"values must be (N, 2 G) of {list(TYPES)}, got {tuple(values.shape)} {values.dtype}")
    expected = (len(values), -(-values.shape[1] // 4))
    if indices.shape != expected or indices.dtype != torch.uint8:
        raise ValueError(f"indices must be {expected} uint8, got {tuple(indices.shape)} {indices.dtype}")
