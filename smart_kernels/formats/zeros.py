"""The structure of a weight's zeros, in words that formats read."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
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


def check_groups(n: int, m: int) -> None:
    """Raise ValueError unless n:m can be stored."""
    if m not in GROUP_SIZES or not 0 < n < m:
        raise ValueError(f"n:m must keep 0 < n < m with m one of {GROUP_SIZES}, got {n}:{m}")


def read_groups(kept: Tensor) -> tuple[int, int]:
    """Return n and m out of the tensor that holds them, (2,) int64.

    Raises:
        ValueError: it holds something else.
    """
    if kept.shape != (2,) or kept.dtype != torch.int64:
        raise ValueError(f"kept must be n and m in int64, got {tuple(kept.shape)} {kept.dtype}")
    n, m = kept.tolist()
    check_groups(n, m)
    return n, m


class Candidate(NamedTuple):
    """A variant of a format that a layer could run as.

    Attributes:
        label: for reports and timings; its first word is the name of the format.
        options: keyword arguments of ``from_zeros`` and ``lacking``.
    """

    label: str
    options: dict


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
