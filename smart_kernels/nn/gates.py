"""How the scores of a masked layer become mask values, set by whoever prunes, once per step."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smart_kernels.ops import smart_weight
from smart_kernels.patterns import Pattern


@dataclass(frozen=True)
class HardGate:
    """A fixed mask.

    Args:
        mask: (rows, cols) values per score, 0 or 1, float32.
    """

    mask: Tensor
    eps = 0.0

    def map(self, fn) -> "HardGate":
        """Return the gate with ``fn`` applied to its tensors (moves between devices)."""
        return HardGate(fn(self.mask).float())


@dataclass(frozen=True)
class SoftGate:
    """A mask that learns, made for all layers at once.

    Args:
        mask: (rows, cols) values per score, in [0, 1], float32 or wider, differentiable; several backward calls must be
            able to go through it, as through that of ``soft_topk``.
        eps: a tile whose mask value is at most this is dead.
    """

    mask: Tensor
    eps: float = 0.0

    def map(self, fn) -> "SoftGate":
        """Return the gate with ``fn`` applied to its mask, which keeps its digits; its history is dropped."""
        mask = self.mask.detach()
        moved = fn(mask)
        return SoftGate(moved if moved.dtype.itemsize >= 4 else mask.to(moved.device), self.eps)

    def __deepcopy__(self, memo) -> "SoftGate":
        return self.map(torch.clone)

    def __reduce__(self):
        return SoftGate, (self.mask.detach(), self.eps)


@dataclass(frozen=True)
class GroupGate:
    """The soft top-k of every group of an N:M pattern, solved where it is multiplied with the weight.

    Args:
        temperature: > 0, in units of the scores, on their device; a number becomes a 0-d float64 tensor, so that no
            compiled graph is made anew for another one.
        eps: a weight whose mask value is at most this is dead.
        straight_through: multiply by the hard mask; the gradient of the scores is still that of the soft one.
        scores: to be used instead of the layer's own, where that holds a shard of them or other processes have to hear
            of the gradient; None elsewhere. Copies do without.
    """

    temperature: Tensor | float
    eps: float = 0.0
    straight_through: bool = False
    scores: Tensor | None = None

    def __post_init__(self):
        object.__setattr__(self, "temperature", _as_tensor(self.temperature))

    def weight(self, matrix: Tensor, scores: Tensor, pattern: Pattern) -> Tensor:
        """Return (N, taps, C) weight times its mask, in one pass."""
        rows = matrix.flatten(0, 1)
        settings = {"eps": self.eps, "hard": self.straight_through}
        masked = smart_weight(rows, scores.view(rows.shape), pattern.n, pattern.m, self.temperature, **settings)
        return masked.view(matrix.shape)

    def map(self, fn) -> "GroupGate":
        """Return the gate with ``fn`` applied to its tensor, for the scores of whatever layer gets it."""
        return replace(self, temperature=fn(self.temperature).to(torch.float64), scores=None)

    def __deepcopy__(self, memo) -> "GroupGate":
        return self.map(torch.clone)

    def __reduce__(self):
        return GroupGate, (self.temperature, self.eps, self.straight_through)


def _as_tensor(temperature: float | Tensor) -> Tensor:
    return temperature if isinstance(temperature, Tensor) else torch.tensor(temperature, dtype=torch.float64)


Gate = HardGate | SoftGate | GroupGate
