"""``history.jsonl``: a row of numbers every few steps, whole after a kill."""

import json
import math
from pathlib import Path
from typing import IO

from torch import Tensor

from .evaluate import accuracy
from .training import Training

EVERY = 5  # steps between two rows


def due(training: Training) -> bool:
    """Return whether the step just taken gets a row."""
    return training.step % EVERY == 0 or training.step == training.steps


def row(training: Training, loss: Tensor) -> dict:
    """Return the numbers of the step just taken: loss, learning rate, the pruner's report, now and then the accuracy.

    Raises:
        ValueError: the loss is not finite.
    """
    found = {"step": training.step, "loss": loss.item(), "lr": training.optimizers[0].param_groups[0]["lr"]}
    if not math.isfinite(found["loss"]):
        raise ValueError(f"loss must be finite, got {found['loss']} at step {training.step}; a smaller --lr may help")
    if training.pruner:
        report = training.pruner.report()
        found |= {name: value for name, value in report.items() if name not in ("step", "layers")}
    quarter = max(1, training.steps // 20) * 5
    if training.step % quarter == 0 or training.step == training.steps:
        found["accuracy"] = accuracy(training.model, training.data, training.device, limit=1000)
    return found


def append_to(path: Path, step: int) -> IO[str]:
    """Open a history for appending, without the rows after ``step``: they will be written again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [line for line in _lines(path) if json.loads(line)["step"] <= step]
    path.write_text("".join(rows))
    return path.open("a")


def read(path: Path) -> list[dict]:
    """Return the rows of a history; a line cut short by a kill is left out."""
    return [json.loads(line) for line in _lines(path)]


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] if path.exists() else []
