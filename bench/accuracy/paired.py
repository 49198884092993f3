"""Paired differences of two methods, with what their spread allows to say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """Of two methods on the same seeds, in points.

    Attributes:
        mean: first minus second.
        half: half of the 95 % t-interval; NaN with one pair.
        pairs: seeds that both have.
        p: of a two-sided paired t-test; 1 with one pair.
    """

    mean: float
    half: float
    pairs: int
    p: float


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Compare accuracies by seed; None where no seed has both."""
    differences = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    count = len(differences)
    if not count:
        return None
    mean = fmean(differences)
    if count == 1:
        return Difference(mean, math.nan, 1, 1.0)
    p = _p(mean, stdev(differences) / math.sqrt(count), count - 1)
    return Difference(mean, interval(differences), count, p)


def interval(values: Sequence[float]) -> float:
    """Return half of the 95 % t-interval of a mean; 0 for one value, which has none."""
    if len(values) < 2:
        return 0.0
    return t_quantile(1 - LEVEL / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))


def _p(mean: float, error: float, freedom: int) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return 2 * (1 - t_below(abs(mean) / error, freedom))


def t_below(t: float, freedom: int) -> float:
    """Return the probability that Student's t with whole degrees of freedom is below ``t`` >= 0.

    The finite sum of Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan2(t, math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (k - 1) / k
        total += term
    inner = math.sin(angle) * total
    return 0.5 + (2 / math.pi * (angle + inner) if odd else inner) / 2


def t_quantile(probability: float, freedom: int) -> float:
    """Return the value that t is below with a probability in [0.5, 1), by halving."""
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_below(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def holm(ps: Sequence[float]) -> list[bool]:
    """Return which of several tests hold together at the 5 % level, by Holm's step-down."""
    held = [False] * len(ps)
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        if ps[place] > LEVEL / (len(ps) - rank):
            break
        held[place] = True
    return held
