"""How often the candidates of a comparison are timed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """The rounds of a comparison.

    Attributes:
        trial: of all candidates.
        pairs: of the dense ones and the finalists, at least; a spread takes two.
        finalists: sparse candidates that go on after the trial.
    """

    trial: int = 5
    pairs: int = 30
    finalists: int = 2


FULL = Effort()  # behind a choice
BRIEF = Effort(trial=2, pairs=5, finalists=1)  # behind an entry of a table, which many entries surround
