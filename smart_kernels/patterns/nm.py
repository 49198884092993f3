from dataclasses import dataclass

import torch.nn.functional as F

from .base import Pattern


@dataclass(frozen=True)
class NM(Pattern):
    """``n`` of every ``m`` consecutive input channels, at each output channel and tap. Sparsity is 1 - n/m."""

    n: int
    m: int
    name = "nm"
    example = (2, 4)
    local = True

    def __post_init__(self):
        if not 0 < self.n < self.m:
            raise ValueError(f"NM keeps n of every m weights with 0 < n < m, got n={self.n}, m={self.m}")

    @property
    def sparsity(self):
        return 1 - self.n / self.m

    def tile(self, shape):
        return 1, 1

    def groups(self, scores, shape):
        """(N, taps * C) scores -> (N * taps * ceil(C / m), m); what fills up the last group is -inf, never kept."""
        rows = scores.reshape(shape.N * shape.taps, shape.C)
        return F.pad(rows, (0, -shape.C % self.m), value=float("-inf")).view(-1, self.m)

    def ungroup(self, groups, shape):
        """The inverse of ``groups``, for a mask: (N, taps * C)."""
        return groups.view(shape.N * shape.taps, -1)[:, : shape.C].reshape(shape.N, shape.taps * shape.C)

    def __str__(self):
        return f"nm:{self.n}:{self.m}"
