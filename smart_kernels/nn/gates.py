"""How the scores of a masked layer become mask values, set by whoever prunes, once per step."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smart_kernels.ops import smart_weight
from smart_kernels.patterns import Pattern, WeightShape
from smart_kernels.reference.common import soft_mask


@dataclass(frozen=True)
class HardGate:
    """A fixed mask.

    Args:
        mask: (rows, cols) values per score, 0 or 1, float32.
    """

    mask: Tensor
    eps = 0.0
    scores = None

    def values(self, scores: Tensor, pattern: Pattern, shape: WeightShape) -> Tensor:
        """Return (rows, cols) mask value per score."""
        return self.mask

    def map(self, fn) -> "HardGate":
        """Return the gate with ``fn`` applied to its tensors (moves between devices)."""
        return HardGate(fn(self.mask).float())


@dataclass(frozen=True)
class SoftGate:
    """``sigmoid((scores - threshold) / temperature)``, computed where it is used.

    Args:
        threshold: float64, one value, or for N:M one per group, in the order of ``pattern.groups``.
        temperature: > 0, in units of the scores; a number becomes a 0-d float64 tensor, so that no compiled graph is
            made anew for another one.
        eps: a tile whose mask value is at most this is dead.
        scores: to be used instead of the layer's own, where that holds a shard of them or other processes have to hear
            of the gradient; None elsewhere. Copies do without.
    """

    threshold: Tensor
    temperature: Tensor | float
    eps: float = 0.0
    scores: Tensor | None = None

    def __post_init__(self):
        object.__setattr__(self, "temperature", _as_tensor(self.temperature, self.threshold.device))

    def values(self, scores: Tensor, pattern: Pattern, shape: WeightShape) -> Tensor:
        """Return (rows, cols) mask value per score, differentiable in the scores and the threshold."""
        return soft_mask(scores, pattern.thresholds(self.threshold, shape), self.temperature)

    def map(self, fn) -> "SoftGate":
        """Return the gate with ``fn`` applied to its tensors; the history of the threshold is dropped."""
        threshold = self.threshold.detach()
        temperature = fn(self.temperature).to(torch.float64)
        return replace(self, threshold=fn(threshold).to(threshold.dtype), temperature=temperature, scores=None)

    def __deepcopy__(self, memo) -> "SoftGate":
        return self.map(torch.clone)

    def __reduce__(self):
        return SoftGate, (self.threshold.detach(), self.temperature, self.eps)


@dataclass(frozen=True)
class GroupGate:
    """The soft top-k of every group of an N:M pattern, solved where it is multiplied with the weight.

    Args:
        temperature: as in ``SoftGate``, on the device of the scores.
        eps: a weight whose mask value is at most this is dead.
        straight_through: multiply by the hard mask; the gradient of the scores is still that of the soft one.
        scores: as in ``SoftGate``.
    """

    temperature: Tensor | float
    eps: float = 0.0
    straight_through: bool = False
    scores: Tensor | None = None

    def __post_init__(self):
        object.__setattr__(self, "temperature", _as_tensor(self.temperature, None))

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


def _as_tensor(temperature: float | Tensor, device: torch.device | None) -> Tensor:
    if isinstance(temperature, Tensor):
        return temperature
    return torch.full((), temperature, dtype=torch.float64, device=device)


Gate = HardGate | SoftGate | GroupGate
