"""Who wins a comparison: a rule that noise cannot talk into a loss."""

from dataclasses import dataclass
from statistics import median, quantiles

MARGIN = 0.02  # a smaller win may be none when it is measured again, in other memory
CLOSE = 0.1  # what is nearer than this may be decided the other way next time, or for another layer
TIE = 0.01  # what is closer than this is equal

Times = dict[str, list[float]]  # candidate -> seconds per call of each round


@dataclass(frozen=True)
class Choice:
    """The outcome of a comparison.

    Attributes:
        name: the winner.
        baseline: the fastest dense candidate.
        ratio: median over the pairs of winner / baseline time.
        spread: interquartile range of those pairs' ratios, as a fraction of their median.
    """

    name: str
    baseline: str
    ratio: float
    spread: float


def choose(times: Times, dense: tuple[str, ...], policy: str = "speed") -> Choice:
    """Pick a winner from interleaved timings.

    A sparse candidate must beat the fastest dense one: have a median pair ratio below 1 by more than its spread. Among
    the dense ones the median alone decides: to stay with the slower one for a spread would break the promise.

    Where two are equal, the plain layer is the simpler one, and of two sparse ones the first.

    Args:
        times: candidate -> seconds of each round; the first dense name is the plain layer.
        dense: names of the dense candidates, simplest first.
        policy: ``"speed"``, or ``"size"``: the fastest sparse candidate, whether it wins or not.
    """
    present = [name for name in dense if name in times]
    plain = present[0]
    baseline = min(present, key=lambda name: median(times[name]))
    for name in sorted((name for name in times if name not in present), key=lambda name: median(times[name])):
        if policy == "size" or wins(times[name], times[baseline]):
            return Choice(name, baseline, *pair_ratio(times[name], times[baseline]))
    name = baseline if pair_ratio(times[baseline], times[plain])[0] < 1 - TIE else plain
    return Choice(name, baseline, *pair_ratio(times[name], times[baseline]))


def settle(times: Times, policy: str = "speed") -> str:
    """Pick the whole model that stays: the one with the winners, unless a dense one or the one that came is faster.

    Every winner has passed ``choose`` alone, with its weight in the cache; in the model the median decides.

    Args:
        times: ``"chosen"``, and the models that differ from it -> seconds of each round.
        policy: with ``"size"`` the winners stay.
    """
    rivals = (name for name in times if name != "chosen")
    rival = min(rivals, key=lambda name: median(times[name]), default="chosen")
    loses = policy == "speed" and pair_ratio(times["chosen"], times[rival])[0] > 1 + TIE
    return rival if loses else "chosen"


def wins(candidate: list[float], incumbent: list[float]) -> bool:
    """Return whether it is faster by more than the spread, both as fractions of the incumbent's time."""
    ratio, spread = pair_ratio(candidate, incumbent)
    return ratio + max(ratio * spread, MARGIN) < 1


def pair_ratio(candidate: list[float], incumbent: list[float]) -> tuple[float, float]:
    """Return the median of the rounds' candidate / incumbent ratios, and their interquartile range over that median."""
    ratios = [a / b for a, b in zip(candidate, incumbent, strict=True)]
    low, middle, high = quantiles(ratios, n=4)
    return middle, (high - low) / middle
