"""What changes while the mask is searched, as functions of progress ``u`` in [0, 1].

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


def cosine(u: float, start: float, end: float) -> float:
    """``end + (start - end) (1 + cos(pi u)) / 2``: slow at both ends."""
    return end + (start - end) * (1 + math.cos(math.pi * u)) / 2


def exponential(u: float, start: float, end: float) -> float:
    """``start (end / start)^u``: the same factor every step."""
    return start * (end / start) ** u


def linear(u: float, start: float, end: float) -> float:
    """``start + (end - start) u``."""
    return start + (end - start) * u


def keep(u: float, everything: int, target: int, warmup: float, *, whole: bool) -> float:
    """``target + (everything - target) (1 - u / warmup)^3`` until ``u = warmup``, then ``target``.

    Args:
        u: progress of the search.
        everything: what is kept at the start.
        target: what is kept from ``warmup`` on.
        warmup: fraction of the search, 0 for ``target`` throughout.
        whole: round to whole tiles; a fraction of a tile could never become 0 or 1.

    Returns:
        The budget of the soft mask, an int when ``whole``.
    """
    if u >= warmup:
        return target
    kept = target + (everything - target) * (1 - u / warmup) ** 3
    return round(kept) if whole else kept


@dataclass(frozen=True)
class Plan:
    """When the stages start and how the search cools down; the arguments are those of ``SmartPruner``.

    Raises:
        ValueError: a value is out of its range.
    """

    search_steps: int
    dense_steps: int = 0
    temperature: tuple[float, float] | Callable[[float], float] = (0.2, 1e-3)
    warmup: float = 0.5

    def __post_init__(self):
        if self.search_steps < 1 or self.dense_steps < 0:
            got = f"{self.search_steps} and {self.dense_steps}"
            raise ValueError(f"search_steps must be at least 1 and dense_steps at least 0, got {got}")
        if not 0 <= self.warmup < 1:  # the target must be reached before the search ends
            raise ValueError(f"warmup must be in [0, 1), got {self.warmup}")
        if not callable(self.temperature):
            _check_ends(self.temperature)

    def progress(self, step: int) -> float:
        """Of the search: 0 at its first step (``dense_steps``, steps counted from 0), 1 at its last."""
        return (step - self.dense_steps) / max(1, self.search_steps - 1)

    def temperature_at(self, step: int) -> float:
        """Temperature of the mask at ``step``."""
        u = self.progress(step)
        return self.temperature(u) if callable(self.temperature) else cosine(u, *self.temperature)


def _check_ends(temperature: object) -> None:
    if not isinstance(temperature, Sequence) or len(temperature) != 2:
        raise ValueError(f"temperature must be (start, end) or a function of progress, got {temperature}")
    if min(temperature) <= 0:
        raise ValueError(f"temperature must be > 0 at both ends, got {temperature}")
