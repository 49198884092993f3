"""The rows of ``bench pareto``."""

from dataclasses import dataclass
from pathlib import Path

from .. import lines, rows

FOLDER = rows.RESULTS / "pareto"


@dataclass(frozen=True, kw_only=True)
class Point(rows.Measured):
    """Record what became of a model: how right and how fast.

    Attributes:
        model, choice, seed: what was run; see ``choices``.
        asked: the speed-up that was planned for; None without a plan.
        predicted: that which the plan promises, over the dense model that it measured.
        dense, accuracy: percent of the test images.
        sparsity: of the prunable weights.
        speedup, spread, dense_ms, sparse_ms: beside the best dense model, as ``compare`` measures it.
        plan: pattern and density of each layer, where there is a plan.
    """

    model: str
    choice: str
    seed: int
    asked: float | None
    predicted: float | None
    dense: float
    accuracy: float
    sparsity: float
    speedup: float
    spread: float
    dense_ms: float
    sparse_ms: float
    plan: dict[str, list]

    @property
    def key(self) -> tuple:
        """Return what makes it the same run."""
        return self.model, self.choice, self.seed

    @property
    def off(self) -> float | None:
        """The measured time over the predicted one, less 1; None without a plan."""
        return None if self.predicted is None else self.predicted / self.speedup - 1


def path() -> Path:
    """Return where rows of this processor go."""
    return FOLDER / rows.default_path("cpu").name


def read(paths: list[Path]) -> dict[tuple, Point]:
    """Return the rows of some files by what was run."""
    return lines.read(Point, paths)
