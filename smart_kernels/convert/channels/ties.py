"""Numbers that are tied together: every channel has one, tied channels live and die together."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

STAYS = 0  # the number of all channels that cannot be removed


class Channels(NamedTuple):
    """The channels of a tensor, thin: of its rank, of size 1 along a dimension that holds the same for all.

    Attributes:
        numbers: int64.
        zero: bool, True where the value is exactly 0 whatever the input.
    """

    numbers: Tensor
    zero: Tensor

    @classmethod
    def thin(cls, numbers: Tensor, zero: Tensor) -> "Channels":
        """Cut along every dimension that holds the same number for all; zero is then what is zero for all."""
        for dim, size in enumerate(numbers.shape):
            if size > 1 and (numbers == numbers.narrow(dim, 0, 1)).all():
                numbers = numbers.narrow(dim, 0, 1)
                zero = zero.all(dim, keepdim=True)
        return cls(numbers, zero)

    def vector(self, dim: int, size: int) -> tuple[Tensor, Tensor] | None:
        """Return (size,) numbers and zeros along ``dim``; None where other dimensions matter."""
        if any(n > 1 for i, n in enumerate(self.numbers.shape) if i != dim % self.numbers.dim()):
            return None
        return tuple(part.flatten().expand(size) for part in self)

    def expand(self, shape: torch.Size) -> "Channels":
        """Return a number and a zero for every element of a tensor of this shape."""
        return Channels(*(part.expand(shape) for part in self))

    def full(self, shape: torch.Size) -> "Channels":
        """Return ``expand(shape)`` in memory of its own."""
        return Channels(*(part.expand(shape).clone(memory_format=torch.contiguous_format) for part in self))


def constant(tensor: Tensor) -> Channels:
    """Return the channels of a tensor that does not follow from the model's layers: they stay."""
    size = [1] * tensor.dim()
    return Channels(torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.bool))


class Ties:
    """Union-find over numbers; the smallest of those that are tied is their root."""

    def __init__(self):
        self._parent = np.array([STAYS])
        self._count = 1

    def new(self, count: int) -> Tensor:
        """Return (count,) numbers of their own."""
        start = self._count
        self._count += count
        if self._count > len(self._parent):
            self._parent = np.concatenate([self._parent, np.arange(len(self._parent), 2 * self._count)])
        return torch.arange(start, self._count)

    def tie(self, a: Tensor, b: Tensor | int) -> None:
        """Tie numbers pairwise; shapes broadcast."""
        one, other = (t.flatten().numpy() for t in torch.broadcast_tensors(a, torch.as_tensor(b)))
        one, other = self._roots(one), self._roots(other)
        while (apart := one != other).any():
            low, high = np.minimum(one, other)[apart], np.maximum(one, other)[apart]
            np.minimum.at(self._parent, high, low)
            one, other = self._roots(one), self._roots(other)

    def stay(self, numbers: Tensor) -> None:
        """Note that these cannot be removed."""
        self.tie(numbers, STAYS)

    def roots(self, numbers: Tensor) -> Tensor:
        """Return numbers of which all that are tied have the same."""
        return torch.from_numpy(self._roots(numbers.flatten().numpy())).view(numbers.shape)

    def root_set(self, numbers: Iterable[int]) -> set[int]:
        """Return ``roots`` of a collection."""
        return set(self._roots(np.fromiter(numbers, np.int64)).tolist())

    def _roots(self, numbers: np.ndarray) -> np.ndarray:
        roots = self._parent[numbers]
        while ((above := self._parent[roots]) != roots).any():
            roots = above
        self._parent[numbers] = roots
        return roots
