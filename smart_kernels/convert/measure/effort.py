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
        told: the ratios are what counts, so it goes on until they have settled, however clear it is who wins.
    """

    trial: int = 5
    clear: int = 10
    pairs: int = 30
    finalists: int = 2
    told: bool = False

    def enough(self, decided: bool) -> bool:
        """Return whether it is enough that it is clear who wins."""
        return decided and not self.told


FULL = Effort()  # behind a choice
BRIEF = Effort(trial=2, clear=5, pairs=5, finalists=1)  # behind an entry of a table, which many entries surround
TOLD = Effort(clear=30, told=True)  # behind a number that somebody reads
