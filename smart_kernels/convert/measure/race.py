"""When a comparison may end: what more rounds would not change."""

from math import sqrt
from statistics import median

from .choice import CLOSE, TIE, Times, pair_ratio

STEADY = 0.05  # spread below which more rounds are not needed


def rounds(times: Times) -> int:
    """Return how many there are."""
    return len(next(iter(times.values())))


def settled(times: Times) -> bool:
    """Return whether the ratios to the first candidate are known."""
    first, *others = times.values()
    return all(pair_ratio(other, first)[1] <= STEADY for other in others)


def in_reach(times: Times, finalists: int) -> list[str]:
    """Return those that may still be among the fastest.

    The others were slower in their best round than ``finalists`` candidates in their worst one, by ``CLOSE`` and more.
    On a busy machine worst rounds are slow and nobody is left out.
    """
    if len(times) <= finalists:
        return list(times)
    limit = (1 + CLOSE) * sorted(map(max, times.values()))[finalists - 1]
    return [name for name, rounds in times.items() if min(rounds) <= limit]


def decided(times: Times, dense: tuple[str, ...]) -> bool:
    """Return whether the leader has beaten everybody else clearly.

    That is by ``CLOSE`` and the spread of the rounds on top. Of two sparse ones it does not matter which is taken where
    they are known to within a tie: whichever it is beats the dense ones clearly.
    """
    leader = min(times, key=lambda name: median(times[name]))
    others = [name for name in times if name != leader]
    return all(
        _beaten(times, name, leader) or _known(times, {name, leader} & set(dense), name, leader) for name in others
    )


def _beaten(times: Times, name: str, leader: str) -> bool:
    ratio, spread = pair_ratio(times[name], times[leader])
    return ratio * (1 - spread) > 1 + CLOSE


def _known(times: Times, dense: set[str], name: str, leader: str) -> bool:
    spread = pair_ratio(times[name], times[leader])[1]
    return not dense and spread / sqrt(len(times[leader])) <= TIE
