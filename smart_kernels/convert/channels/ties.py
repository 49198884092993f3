"""Numbers that are tied together: every channel has one, tied channels live and die together."""

from collections.abc import Iterable
from typing import NamedTuple

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
        """Cut along every dimension that holds the same for all."""
        for dim in range(numbers.dim()):
            first = numbers.narrow(dim, 0, 1), zero.narrow(dim, 0, 1)
            if numbers.shape[dim] > 1 and (numbers == first[0]).all() and (zero == first[1]).all():
                numbers, zero = first
        return cls(numbers, zero)

    def vector(self, dim: int, size: int) -> tuple[Tensor, Tensor] | None:
        """Return (size,) numbers and zeros along ``dim``; None where other dimensions matter."""
        if any(n > 1 for i, n in enumerate(self.numbers.shape) if i != dim % self.numbers.dim()):
            return None
        return tuple(part.flatten().expand(size) for part in self)


class Ties:
    """Union-find over numbers."""

    def __init__(self):
        self._parent = [STAYS]

    def new(self, count: int) -> Tensor:
        """Return (count,) numbers of their own."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def tie(self, a: Tensor, b: Tensor | int) -> None:
        """Tie numbers pairwise; shapes broadcast."""
        pairs = torch.stack(torch.broadcast_tensors(a, torch.as_tensor(b))).flatten(1)
        for one, other in pairs.unique(dim=1).T.tolist():
            low, high = sorted((self._root(one), self._root(other)))
            self._parent[high] = low

    def stay(self, numbers: Tensor) -> None:
        """Note that these cannot be removed."""
        self.tie(numbers, STAYS)

    def roots(self, numbers: Tensor) -> Tensor:
        """Return numbers of which all that are tied have the same."""
        return torch.tensor([self._root(number) for number in numbers.flatten().tolist()]).view(numbers.shape)

    def root_set(self, numbers: Iterable[int]) -> set[int]:
        """Return ``roots`` of a collection."""
        return {self._root(number) for number in numbers}

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = number = self._parent[self._parent[number]]
        return number
