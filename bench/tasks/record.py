"""The rows of ``bench tasks``: a line of JSON for every finished run."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import lines, rows

FOLDER = rows.RESULTS / "tasks"
Task = tuple[str, str, int]  # cell, method, seed


@dataclass(frozen=True, kw_only=True)
class Run(rows.Measured):
    """Record what one method made of one dense model.

    Attributes:
        cell, method, seed: what was run; see ``cells``.
        metric: what dense and quality are.
        passes: over batches after the dense stage, those that were only looked at included.
        prepared: of these, those that were only looked at.
        dense, quality: of the dense model and of the pruned one, on the scenes for testing.
        kept, asked: weights.
        step_ms, dense_step_ms: processor time of a step of all threads, mean over the training, its tests included.
        z2: as in ``Pruner.report()``, where the method has it.
    """

    cell: str
    method: str
    seed: int
    metric: str
    passes: int
    prepared: int
    dense: float
    quality: float
    kept: int
    asked: int
    step_ms: float
    dense_step_ms: float
    z2: float | None = None

    @property
    def key(self) -> Task:
        """Return what makes it the same run."""
        return self.cell, self.method, self.seed


def path() -> Path:
    """Return where rows of this processor go."""
    return FOLDER / rows.default_path("cpu").name


def read(paths: Iterable[Path]) -> dict[Task, Run]:
    """Return the runs of some files by their key."""
    return lines.read(Run, paths)
