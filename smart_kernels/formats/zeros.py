"""The structure of a weight's zeros, in words that formats read."""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

GROUP_SIZES = (2, 4, 8)  # m of the n:m that can be stored


class Groups(NamedTuple):
    """At most n of every m consecutive input channels are not 0, at each output channel and tap.

    Attributes:
        n, m: m is one of ``GROUP_SIZES``.
        transposable: 2:4 in the output channels as well.
    """

    n: int
    m: int
    transposable: bool = False


@dataclass(frozen=True, eq=False)
class Zeros:
    """A weight and what its zeros are made of.

    Attributes:
        weight: (N, taps * C), input channels next to each other, detached.
        taps: kernel positions, 1 for a linear layer.
        tile: (tile_n, tile_c) of which all or nothing is kept, or None.
        groups: the n:m that it is, or None.
        made: what one format has made of the weight for others that read the same tensors.
    """

    weight: Tensor
    taps: int = 1
    tile: tuple[int, int] | None = None
    groups: Groups | None = None
    made: dict = field(default_factory=dict, repr=False)

    def any(self) -> bool:
        """Return whether there are any."""
        return bool((self.weight == 0).any())
