from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.formats import GROUP_SIZES, Dense, Groups, SemiStructured
from smart_kernels.reference.semi_structured import PINNED, best_masks, transposable_masks

from .base import Pattern, Storage
from .budget import keep_n
from .text import integers


@dataclass(frozen=True)
class NM(Pattern):
    """``n`` of every ``m`` consecutive input channels, at each output channel and tap. Sparsity is 1 - n/m.

    Args:
        n, m: what is kept of every group.
        transposable: 2:4 only; the hard mask keeps 2 of every 4 output channels as well, so that the gradient of the
            input is a 2:4 product, too.
    """

    n: int
    m: int
    transposable: bool = False
    name = "nm"
    form = "nm:N:M[:transposable]"
    example = (2, 4)

    def __post_init__(self):
        if not 0 < self.n < self.m:
            raise ValueError(f"NM keeps n of every m weights with 0 < n < m, got n={self.n}, m={self.m}")
        if self.transposable and (self.n, self.m) != (2, 4):
            raise ValueError(f"transposable masks are 2:4, got {self.n}:{self.m}")

    @classmethod
    def parse(cls, parts):
        if len(parts) not in (2, 3) or parts[2:] not in ([], ["transposable"]):
            raise cls.unreadable()
        return cls(*integers(parts[:2]), transposable=len(parts) == 3)

    @property
    def sparsity(self):
        return 1 - self.n / self.m

    @property
    def group(self):
        return 1, self.m

    def tile(self, shape):
        return 1, 1

    def storage(self, shape):
        if self.m not in GROUP_SIZES:
            return Storage(Dense, note=f"stored dense, groups of {GROUP_SIZES} have a kernel")
        groups = Groups(self.n, self.m, self.transposable and shape.N % 4 == 0 and shape.C % 4 == 0)
        return Storage(SemiStructured, groups._asdict(), groups=groups)

    def groups(self, scores, shape):
        """Cut (N, taps * C) scores into groups (N * taps * ceil(C / m), m); the last one is filled up with -inf."""
        rows = scores.reshape(shape.N * shape.taps, shape.C)
        return F.pad(rows, (0, -shape.C % self.m), value=float("-inf")).view(-1, self.m)

    def ungroup(self, groups, shape):
        """Undo ``groups``, for a mask: return (N, taps * C)."""
        return groups.view(shape.N * shape.taps, -1)[:, : shape.C].reshape(shape.N, shape.taps * shape.C)

    def hard_mask(self, scores, shape):
        """Return the float32 mask of 0 and 1 that keeps the largest sum of (N, taps * C) scores."""
        free = self.ungroup(keep_n(self.groups(scores, shape), self.n), shape)
        return _transposable_mask(scores.detach(), shape) if self.transposable else free

    def score_lost(self, scores, shape):
        """Return what the form of ``hard_mask`` costs: 0 keeps the best n of every group, 1 is no better than any n."""
        best = self.ungroup(keep_n(self.groups(scores, shape), self.n), shape).double()
        scores = scores.detach().double().clamp(-PINNED, PINNED)
        kept = (scores * self.hard_mask(scores, shape)).sum()
        any_n = (scores * best.mean()).sum()
        return float(((scores * best).sum() - kept) / ((scores * best).sum() - any_n).clamp_min(1e-12))

    def __str__(self):
        return f"nm:{self.n}:{self.m}" + (":transposable" if self.transposable else "")


@dataclass(frozen=True)
class VNM(NM):
    """In every ``v`` output channels, 4 of every ``m`` consecutive input channels; of these, 2 at each output channel.

    The four columns are those of the largest sum of scores. What is left of the weight after dropping the other
    columns is 2:4.

    Args:
        v: output channels that choose their columns together.
        n: 2.
        m: input channels they choose from.
    """

    v: int = 64
    name = "vnm"
    form = "vnm:V:N:M"
    example = (64, 2, 8)

    def __init__(self, v: int, n: int, m: int):
        object.__setattr__(self, "v", v)
        super().__init__(n, m)

    def __post_init__(self):
        super().__post_init__()
        if self.n != 2 or self.m <= 4 or self.v < 1:
            raise ValueError(f"VNM keeps 2 of every m > 4 weights, in v >= 1 rows, got {self.v}:{self.n}:{self.m}")

    @classmethod
    def parse(cls, parts):
        if len(parts) != 3:
            raise cls.unreadable()
        return cls(*integers(parts))

    def hard_mask(self, scores, shape):
        groups = self.groups(scores, shape).view(shape.N, -1, self.m)  # (N, taps * groups, m)
        groups = groups.detach().clamp(-PINNED, PINNED)
        rows = F.pad(groups, (0, 0, 0, 0, 0, -shape.N % self.v)).unflatten(0, (-1, self.v))
        columns = keep_n(rows.sum(1).flatten(0, 1), 4).view(len(rows), 1, -1, self.m)
        chosen = columns.expand(-1, self.v, -1, -1).flatten(0, 1)[: shape.N].bool()
        inside = torch.where(chosen, groups, -torch.inf).view(-1, self.m)
        real = self.groups(torch.zeros_like(scores), shape) == 0
        return self.ungroup(keep_n(inside, self.n) * chosen.view(-1, self.m) * real, shape)

    def __str__(self):
        return f"vnm:{self.v}:{self.n}:{self.m}"


def _transposable_mask(scores: Tensor, shape) -> Tensor:
    """Return the best of all masks for every 4x4 block of (N, taps * C) scores; beyond the edge nothing counts."""
    pad = (0, -shape.C % 4, 0, 0, 0, -shape.N % 4)
    padded = F.pad(scores.float().clamp(-PINNED, PINNED).view(shape.N, shape.taps, shape.C), pad)
    rows, taps, columns = padded.shape
    blocks = padded.view(rows // 4, 4, taps, columns // 4, 4).permute(0, 2, 3, 1, 4).reshape(-1, 16)
    best = transposable_masks(scores.device)[best_masks(blocks)]
    mask = best.view(rows // 4, taps, columns // 4, 4, 4).permute(0, 3, 1, 2, 4).reshape(padded.shape)
    return mask[: shape.N, :, : shape.C].flatten(1)
