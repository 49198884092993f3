"""The zeros of a weight in words that formats understand."""

from typing import NamedTuple

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
