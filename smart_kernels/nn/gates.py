"""How the scores of a masked layer become mask values, set by whoever prunes, once per step."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smart_kernels.reference.soft_topk import soft_mask


@dataclass(frozen=True)
class HardGate:
    """A fixed mask.

    Args:
        mask: (rows, cols) values per score, 0 or 1, float32.
    """

    mask: Tensor
    eps = 0.0

    def values(self, scores: Tensor) -> Tensor:
        """(rows, cols) mask value per score."""
        return self.mask

    def map(self, fn) -> "HardGate":
        """The gate with ``fn`` applied to its tensors (moves between devices)."""
        return HardGate(fn(self.mask).float())


@dataclass(frozen=True)
class SoftGate:
    """``sigmoid((scores - threshold) / temperature)``, computed where it is used.

    Args:
        threshold: float64, one value, or (rows, cols / m) one per group of m scores in a row.
        temperature: > 0, in units of the scores.
        eps: a tile whose mask value is at most this is dead.
    """

    threshold: Tensor
    temperature: float
    eps: float = 0.0

    def values(self, scores: Tensor) -> Tensor:
        """(rows, cols) mask value per score, differentiable in the scores and the threshold."""
        return soft_mask(scores, self._per_score(scores), self.temperature)

    def map(self, fn) -> "SoftGate":
        """The gate with ``fn`` applied to its tensors; the history of the threshold is dropped."""
        threshold = self.threshold.detach()
        return replace(self, threshold=fn(threshold).to(threshold.dtype))

    def __deepcopy__(self, memo) -> "SoftGate":
        return self.map(torch.clone)

    def _per_score(self, scores: Tensor) -> Tensor:
        if self.threshold.numel() == 1:
            return self.threshold
        group = -(-scores.shape[1] // self.threshold.shape[1])
        return self.threshold.repeat_interleave(group, 1)[:, : scores.shape[1]]
