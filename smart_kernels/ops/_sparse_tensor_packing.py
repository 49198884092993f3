"""2:4 weights as the sparse tensor-core kernels read them: a permutation of the saved form."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

KERNELS = ("mma", "wgmma_ss", "wgmma_rs")  # wgmma: W through shared memory, or straight to registers
TYPES = {torch.float16: "f16", torch.bfloat16: "bf16"}
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
