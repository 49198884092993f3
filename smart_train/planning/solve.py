"""The choice of one option per layer: least loss within a limit, exactly."""

from collections.abc import Sequence

import numpy as np

UNITS = 10_000  # a limit is divided into; costs are rounded up, so that no plan exceeds it


def solve(costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], limit: int) -> list[int] | None:
    """Choose an option for each item so that the losses add up to the least, by dynamic programming over the cost.

    The multiple-choice knapsack problem: ``best[c]`` is the least loss of the items so far at a cost of at most c.

    Args:
        costs: of the options of each item, whole numbers >= 0.
        losses: of the same options.
        limit: on the sum of the costs; time and memory grow with it.

    Returns:
        the index of an option for each item, of equal ones the first; None where even the cheapest exceed the limit.
    """
    best = np.zeros(limit + 1)
    choices = []
    for cost, loss in zip(costs, losses, strict=True):
        best, choice = _with_item(best, cost, loss)
        choices.append(choice)
    return _traced(costs, choices, limit) if np.isfinite(best[limit]) else None


def _traced(costs: Sequence[Sequence[int]], choices: Sequence[np.ndarray], limit: int) -> list[int]:
    """Return the options that led to the best at the limit, from the last item back to the first."""
    chosen = []
    for cost, choice in zip(reversed(costs), reversed(choices), strict=True):
        chosen.append(int(choice[limit]))
        limit -= cost[chosen[-1]]
    return chosen[::-1]


def _with_item(best: np.ndarray, costs: Sequence[int], losses: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the least loss at each cost with one more item, and its option there."""
    new = np.full_like(best, np.inf)
    choice = np.zeros(len(best), dtype=np.int16)
    for option, (cost, loss) in enumerate(zip(costs, losses, strict=True)):
        if cost >= len(best):
            continue
        found = best[: len(best) - cost] + loss
        better = found < new[cost:]
        new[cost:][better] = found[better]
        choice[cost:][better] = option
    return new, choice


def in_units(costs: Sequence[float], limit: float) -> list[int]:
    """Return costs in units of ``limit / UNITS``, rounded up."""
    unit = limit / UNITS
    return [int(np.ceil(cost / unit - 1e-6)) for cost in costs]
