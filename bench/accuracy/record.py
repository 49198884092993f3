"""The rows of ``bench accuracy``: a line of JSON for every finished run."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import lines, rows

FOLDER = rows.RESULTS / "accuracy"
SEARCH = "search"  # the folder of a search's rows in it
VARIANTS = "variants"  # that of changes of SMART


@dataclass(frozen=True)
class Task:
    """What to run, as in ``Run``."""

    cell: str
    method: str
    settings: dict[str, Any]
    seed: int

    @property
    def key(self) -> tuple:
        """Return what makes it the same run."""
        return self.cell, self.method, json.dumps(self.settings, sort_keys=True), self.seed


@dataclass(frozen=True, kw_only=True)
class Run(rows.Measured):
    """Record what one method made of one dense model.

    Attributes:
        cell, method, seed: what was run; see ``cells.CELLS`` and ``cells.METHODS``.
        settings: of the method, see ``Cell.recipe``.
        tested: on the "test" images, or on the "validation" images of a search.
        passes: over batches after the dense stage, those that were only looked at included.
        prepared: of these, those that were only looked at.
        dense, accuracy: percent of these images.
        kept, asked: weights.
        step_ms, dense_step_ms: processor time of a step of all threads, mean over the training.
        z2, flips, live, gap: as in ``Pruner.report()``, where the method has them; the gap as the search ended.
    """

    cell: str
    method: str
    seed: int
    settings: dict[str, Any]
    tested: str
    passes: int
    prepared: int
    dense: float
    accuracy: float
    kept: int
    asked: int
    step_ms: float
    dense_step_ms: float
    z2: float | None = None
    gap: float | None = None

    @property
    def task(self) -> Task:
        """Return what was run."""
        return Task(self.cell, self.method, self.settings, self.seed)

    @property
    def key(self) -> tuple:
        """Return what makes it the same run."""
        return self.task.key


def path(folder: Path = FOLDER) -> Path:
    """Return where rows of this processor go."""
    return folder / rows.default_path("cpu").name


def read(paths: Iterable[Path]) -> dict[tuple, Run]:
    """Return the runs of some files by their key."""
    return lines.read(Run, paths)
