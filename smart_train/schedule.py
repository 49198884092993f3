"""Budget and temperature over the search, as functions of its progress ``u`` in [0, 1].

    temperature              keep
    |--__                    |.           everything
    |    \\                   | \\
    |     \\                  |  `-._____   target
    |      `--__             |
    +-----------> u          +------|--> u
    0           1            0   warmup 1
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smart_train.checks import check_number


def cosine(u: float, start: float, end: float) -> float:
    """Return ``end + (start - end) (1 + cos(pi u)) / 2``: slow at both ends."""
    return end + (start - end) * (1 + math.cos(math.pi * u)) / 2


def exponential(u: float, start: float, end: float) -> float:
    """Return ``start (end / start)^u``: the same factor every step."""
    return start * (end / start) ** u


def linear(u: float, start: float, end: float) -> float:
    """Return ``start + (end - start) u``."""
    return start + (end - start) * u


def keep(u: float, everything: int, target: int, warmup: float, *, whole: bool) -> float:
    """Return ``target + (everything - target) (1 - u / warmup)^3`` until ``u = warmup``, then ``target``.

    With ``warmup = 1`` this is the schedule of gradual magnitude pruning (Zhu and Gupta, arXiv 1710.01878).

    Args:
        u: progress of the search.
        everything: kept at the start.
        target: kept from ``warmup`` on.
        warmup: fraction of the search, 0 for ``target`` throughout.
        whole: round to whole tiles; a fraction of a tile could never become 0 or 1.

    Returns:
        The budget, an int when ``whole``.
    """
    if u >= warmup:
        return target
    kept = target + (everything - target) * (1 - u / warmup) ** 3
    return round(kept) if whole else kept


def cubic(pruned: float) -> float:
    """Return the progress at which ``keep`` with ``warmup = 1`` has pruned this fraction of what is to be pruned."""
    return 1 - (1 - pruned) ** (1 / 3)


@dataclass(frozen=True)
class Lengths:
    """The length of the stages before finetuning, in calls of ``Pruner.step()``.

    Raises:
        ValueError: a value is out of its range.
        TypeError: one is no whole number.
    """

    search_steps: int
    dense_steps: int = 0

    def __post_init__(self):
        check_number("search_steps", self.search_steps, least=1, whole=True)
        check_number("dense_steps", self.dense_steps, least=0, whole=True)

    def progress(self, step: int) -> float:
        """Return that of the search: 0 at its first step (``dense_steps``, steps counted from 0), 1 at its last."""
        return (step - self.dense_steps) / max(1, self.search_steps - 1)


@dataclass(frozen=True)
class Cooling:
    """The way of a soft mask to a hard one over the search; the arguments are those of ``SmartPruner``.

    Raises:
        ValueError: a value is out of its range.
    """

    temperature: tuple[float, float] | Callable[[float], float] = (0.2, 1e-3)
    warmup: float = 0.5

    def __post_init__(self):
        if not 0 <= self.warmup < 1:  # the target must be reached before the search ends
            raise ValueError(f"warmup must be in [0, 1), got {self.warmup}")
        if not callable(self.temperature):
            _check_ends(self.temperature)

    def temperature_at(self, u: float) -> float:
        """Return the temperature of the mask at progress ``u``."""
        return self.temperature(u) if callable(self.temperature) else cosine(u, *self.temperature)


def _check_ends(temperature: object) -> None:
    if not isinstance(temperature, Sequence) or len(temperature) != 2:
        raise ValueError(f"temperature must be (start, end) or a function of progress, got {temperature}")
    if min(temperature) <= 0:
        raise ValueError(f"temperature must be > 0 at both ends, got {temperature}")
