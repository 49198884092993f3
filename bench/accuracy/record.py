"""The rows of ``bench accuracy``: a line of JSON for every finished run."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import lines, rows
from .cells import METHODS

FOLDER = rows.RESULTS / "accuracy"


@dataclass(frozen=True, kw_only=True)
class Run(rows.Measured):
    """Record what one method made of one dense model.

    Attributes:
        cell, pruner, options, seed: what was run; see ``cells.CELLS``.
        passes: over batches after the dense stage, those that were only looked at included.
        prepared: of these, those that were only looked at.
        dense, accuracy: percent of the test images.
        kept, asked: weights.
        step_ms, dense_step_ms: processor time of a step of all threads, mean over the training.
        z2, flips, live, gap: as in ``Pruner.report()``, where the method has them; the gap as the search ended.
    """

    cell: str
    pruner: str
    seed: int
    passes: int
    prepared: int
    dense: float
    accuracy: float
    kept: int
    asked: int
    step_ms: float
    dense_step_ms: float
    options: dict[str, Any] = field(default_factory=dict)
    z2: float | None = None
    gap: float | None = None

    @property
    def key(self) -> tuple:
        """Return what makes it the same run."""
        return key(self.cell, self.pruner, self.options, self.seed)

    @property
    def method(self) -> str:
        """The name of pruner and options in ``METHODS``."""
        own = [name for name, method in METHODS.items() if method == (self.pruner, self.options)]
        return own[0] if own else f"{self.pruner} {self.options}"


def key(cell: str, pruner: str, options: dict[str, Any], seed: int) -> tuple:
    """Return what makes a run the same run."""
    return cell, pruner, json.dumps(options, sort_keys=True), seed


def path() -> Path:
    """Return where rows of this processor go."""
    return FOLDER / rows.default_path("cpu").name


def read(paths: Iterable[Path]) -> dict[tuple, Run]:
    """Return the runs of some files by their key."""
    return lines.read(Run, paths)
