"""Compare the rows: SMART minus every other method, cell by cell."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, median

from .cells import CORE, METHODS
from .paired import Difference, holm, paired
from .record import Run

OURS = "smart"


@dataclass(frozen=True)
class Comparison:
    """The runs, by cell and method.

    Attributes:
        runs: cell -> method -> seed -> run.
    """

    runs: dict[str, dict[str, dict[int, Run]]]

    @classmethod
    def of(cls, runs: Iterable[Run]) -> "Comparison":
        """Sort runs."""
        found: dict = defaultdict(lambda: defaultdict(dict))
        for run in runs:
            found[run.cell][run.method][run.seed] = run
        return cls(found)

    def accuracies(self, cell: str, method: str) -> dict[int, float]:
        """Return percent by seed."""
        return {seed: run.accuracy for seed, run in self.runs.get(cell, {}).get(method, {}).items()}

    def difference(self, cell: str, method: str) -> Difference | None:
        """Return ours minus a method, on the seeds that both have; None where there are none."""
        return paired(self.accuracies(cell, OURS), self.accuracies(cell, method))

    def best(self, cell: str) -> str | None:
        """Return the other method with the highest mean on the seeds that it shares with ours; ties by name."""
        found = {method: self.difference(cell, method) for method in METHODS if method != OURS}
        most = max((each.pairs for each in found.values() if each), default=0)
        known = {method: each.mean for method, each in found.items() if each and each.pairs == most}
        return min(known, key=known.get) if known else None

    def dense(self, cell: str) -> float | None:
        """Return the mean accuracy of the dense models."""
        dense = {run.seed: run.dense for runs in self.runs.get(cell, {}).values() for run in runs.values()}
        return fmean(dense.values()) if dense else None

    def z2(self, cell: str) -> float | None:
        """Return the median of our searches' z^2."""
        found = [run.z2 for run in self.runs.get(cell, {}).get(OURS, {}).values() if run.z2 is not None]
        return median(found) if found else None

    def cost(self, method: str) -> float | None:
        """Return the time of a step over that of a dense one, the median over all runs."""
        runs = [run for cell in self.runs.values() for run in cell.get(method, {}).values()]
        return median(run.step_ms / run.dense_step_ms for run in runs) if runs else None

    def verdicts(self) -> dict[str, str]:
        """Return "ahead", "tied" or "behind" of the best other for each cell of the core with at least two pairs."""
        found = {cell: self.difference(cell, self.best(cell)) for cell in CORE if self.best(cell)}
        found = {cell: each for cell, each in found.items() if each.pairs > 1}
        held = holm([each.p for each in found.values()])
        return {
            cell: ("ahead" if each.mean > 0 else "behind") if sure else "tied"
            for (cell, each), sure in zip(found.items(), held, strict=True)
        }


def outcome(found: Difference | None) -> str:
    """Return "ahead" or "behind" where ours is by more than the interval, "tied", "one pair" or "not run"."""
    if found is None or math.isnan(found.half):
        return "one pair" if found else "not run"
    if abs(found.mean) <= found.half:
        return "tied"
    return "ahead" if found.mean > 0 else "behind"
