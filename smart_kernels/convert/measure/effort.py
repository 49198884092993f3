"""How often the candidates of a comparison are timed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """The rounds of a comparison.

    Attributes:
        trial: of the sparse candidates.
        clear: of the dense ones and the finalists, at least; a spread takes two.
        pairs: of those, at least, unless it is clear by then who wins.
        finalists: sparse candidates that go on after the trial.
    """

    trial: int = 5
    clear: int = 10
    pairs: int = 30
    finalists: int = 2


FULL = Effort()  # behind a choice
BRIEF = Effort(trial=2, clear=5, pairs=5, finalists=1)  # behind an entry of a table, which many entries surround
FIXED = Effort(clear=30)  # behind a number that is told
