"""2:4 weights as the sparse tensor-core kernels read them: a permutation of the saved form."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

KERNELS = ("mma", "wgmma_ss", "wgmma_rs")  # wgmma: W through shared memory, or straight to registers
TYPES = {torch.float16: "f16", torch.bfloat16: "bf16"}
BYTES = {torch.int8: "s8", torch.float8_e4m3fn: "e4m3"}  # without gradients
ROWS, COLUMNS = 128, 64  # what a packed weight is padded to; columns of 16 bits
NO_GROUP = 0x44  # two groups that keep their first two weights, for the padding: 0 and 1 rise


@dataclass(frozen=True)
class PackedWeight:
    """A 2:4 weight as one kernel reads it.

    Attributes:
        kernel: of ``KERNELS``.
        weight: as ``arrange`` makes it.
        metadata: as ``arrange_indices`` makes it.
        out_features, groups: N and ceil(K / 4) of the weight.
    """

    kernel: str
    weight: Tensor
    metadata: Tensor
    out_features: int
    groups: int

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """(N', K')."""
        return 64 * self.metadata.shape[0], step(self.dtype) * self.metadata.shape[1]


def pack(values: Tensor, indices: Tensor, kernel: str = "mma") -> PackedWeight:
    """Arrange the saved 2:4 form for ``kernel``: a permutation, on the device of ``values``.

    Args:
        values: (N, 2 G) fp16, bf16, int8 or float8_e4m3fn: the two kept weights of each group of four along K,
            G = ceil(K / 4).
        indices: (N, ceil(G / 2)) uint8, four bits a group: where its two weights were, rising, lowest bits first.
        kernel: of ``KERNELS``.

    Raises:
        ValueError: a shape, dtype or kernel does not fit.
    """
    _check_saved(values, indices, kernel)
    N = len(values)
    groups = values.shape[1] // 2
    whole = step(values.dtype)
    if values.dtype in BYTES:
        pairs = F.pad(values.view(torch.int8), (0, -values.shape[1] % (whole // 2))).view(torch.int16)
        weight = arrange(pairs, kernel).view(values.dtype)
    else:
        weight = arrange(values, kernel)
    return PackedWeight(kernel, weight, arrange_indices(indices, groups, whole), N, groups)


def unpack(packed: PackedWeight) -> tuple[Tensor, Tensor]:
    """Invert ``pack``: values and indices as they are saved; differentiable in ``packed.weight``."""
    N, groups = packed.out_features, packed.groups
    indices = restore_indices(packed.metadata, N, groups)
    if packed.dtype not in BYTES:
        return restore(packed.weight, packed.kernel, N, groups), indices
    pairs = restore(packed.weight.view(torch.int16), packed.kernel, N, -(-groups // 2))
    return pairs.view(packed.dtype)[:, : 2 * groups].contiguous(), indices


def step(dtype: torch.dtype) -> int:
    """Return how many columns the kernels multiply at a time: 128 bytes of x."""
    return 128 // dtype.itemsize


def arrange(values: Tensor, kernel: str) -> Tensor:
    """Arrange values (N, 2 G) for ``kernel``. Differentiable.

    "wgmma_ss": (N', K' / 2), padded; else (N' / 16, K' / 32, 32 lanes, 8) fragments.

    A lane has four words of two values: lane 4g + t has word t + 4c of row g + 8h at 2c + h.
    """
    N, length = values.shape
    values = F.pad(values, (0, -length % (COLUMNS // 2), 0, -N % ROWS))
    if kernel == "wgmma_ss":
        return values.contiguous()
    n, k = values.shape[0] // 16, values.shape[1] // 16
    return values.reshape(n, 2, 8, k, 2, 4, 2).permute(0, 3, 2, 5, 4, 1, 6).reshape(n, k, 32, 8)


def arranged_shape(metadata: Tensor, kernel: str) -> tuple[int, ...]:
    """Return the shape of the values that belong to this metadata."""
    rows, columns = 64 * metadata.shape[0], 64 * metadata.shape[1]
    return (rows, columns // 2) if kernel == "wgmma_ss" else (rows // 16, columns // 32, 32, 8)


def restore(weight: Tensor, kernel: str, N: int, groups: int) -> Tensor:
    """Invert ``arrange``: (N, 2 G)."""
    if kernel != "wgmma_ss":
        n, k = weight.shape[:2]
        weight = weight.reshape(n, k, 8, 4, 2, 2, 2).permute(0, 5, 2, 1, 4, 3, 6).reshape(16 * n, 16 * k)
    return weight[:N, : 2 * groups].contiguous()


def arrange_indices(indices: Tensor, groups: int, whole: int = COLUMNS) -> Tensor:
    """Arrange indices (N, ceil(G / 2)) uint8 as metadata (N' / 64, K' / 64, 4, 32) int32, see
    ``kernels.tensor_core.mma``.

    16 bits are 16 columns of a row, a word is rows g and g + 8. For 8-bit weights (``whole`` = 128 columns), a word is
    32 columns of a row: (N' / 64, K' / 128, 2, 4, 32).
    """
    N, width = indices.shape
    nibbles = F.pad(indices, (0, -width % (whole // 8), 0, -N % ROWS), value=NO_GROUP)
    if groups % 2:  # the upper half of the last byte belongs to the padding
        nibbles[:N, width - 1] = indices[:, -1] & 15 | NO_GROUP & 240
    if whole != COLUMNS:
        words = nibbles.view(torch.int32)
        n, k = words.shape  # tiles of 64, of 16, half, g | steps of 128, of 64, of 32
        words = words.view(n // 64, 4, 2, 8, k // 4, 2, 2).permute(0, 4, 5, 1, 3, 6, 2)
        return words.reshape(n // 64, k // 4, 2, 4, 32)
    halves = nibbles.view(torch.int16)
    n, k = halves.shape  # tiles of 64, of 16, half, g | steps of 64, of 32, of 16
    halves = halves.view(n // 64, 4, 2, 8, k // 4, 2, 2).permute(0, 4, 1, 3, 5, 6, 2)
    return halves.reshape(n // 64, k // 4, 4, 64).view(torch.int32)


def restore_indices(metadata: Tensor, N: int, groups: int) -> Tensor:
    """Invert ``arrange_indices``: (N, ceil(G / 2)) uint8."""
    n, k = metadata.shape[:2]
    if metadata.dim() == 5:
        rows = metadata.view(n, k, 2, 4, 8, 2, 2).permute(0, 3, 6, 4, 1, 2, 5)
    else:
        rows = metadata.contiguous().view(torch.int16).view(n, k, 4, 8, 2, 2, 2).permute(0, 2, 6, 3, 1, 4, 5)
    indices = rows.reshape(64 * n, 4 * k).view(torch.uint8)[:N, : -(-groups // 2)].contiguous()
    if groups % 2:
        indices[:, -1] &= 15
    return indices


def _check_saved(values: Tensor, indices: Tensor, kernel: str) -> None:
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
    types = [*TYPES, *BYTES]
    if values.dtype not in types or values.dim() != 2 or values.shape[1] % 2:
        raise ValueError(f"values must be (N, 2 G) of {types}, got {tuple(values.shape)} {values.dtype}")
    expected = (len(values), -(-values.shape[1] // 4))
    if indices.shape != expected or indices.dtype != torch.uint8:
        raise ValueError(f"indices must be {expected} uint8, got {tuple(indices.shape)} {indices.dtype}")
