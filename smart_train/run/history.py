"""``history.jsonl``: a row of numbers every few steps, whole after a kill."""

import json
import math
from pathlib import Path
from typing import IO

from torch import Tensor

from . import checkpoint
from .evaluate import quality
from .training import Training

EVERY = 5  # steps between two rows


def due(training: Training) -> bool:
    """Return whether the step just taken gets a row."""
    return training.step % EVERY == 0 or training.step == training.steps


def row(training: Training, loss: Tensor) -> dict:
    """Return the numbers of the step just taken: loss, learning rate, the pruner's report, now and then the metric.

    Raises:
        ValueError: the loss is not finite.
    """
    found = {"step": training.step, "loss": loss.item(), "lr": float(training.optimizers[0].param_groups[0]["lr"])}
    if not math.isfinite(found["loss"]):
        raise ValueError(f"loss must be finite, got {found['loss']} at step {training.step}; a smaller --lr may help")
    if training.pruner:
        report = training.pruner.report()
        found |= {name: value for name, value in report.items() if name not in ("step", "layers")}
    quarter = max(1, training.steps // 20) * 5
    if training.step % quarter == 0 or training.step == training.steps:
        found[training.data.task.metric] = quality(training.model, training.data, training.device, limit=1000)
    return found


def append_to(path: Path, step: int) -> IO[str]:
    """Open a history for appending, without the rows after ``step``: they will be written again.

    Raises:
        ValueError: a line is not a row.
    """
    rows = [line for line in _lines(path) if _row(path, line)["step"] <= step]
    checkpoint.write_text(path, "".join(rows))
    return path.open("a")


def read(path: Path) -> list[dict]:
    """Return the rows of a history; a line cut short by a kill is left out.

    Raises:
        ValueError: a line is not a row.
    """
    return [_row(path, line) for line in _lines(path)]


def _row(path: Path, line: str) -> dict:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or type(found.get("step")) is not int:
        raise ValueError(f"{path} must hold a row of JSON with its step in each line, got {line[:80]!r}")
    return found


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text, got other bytes: {error}") from error
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
