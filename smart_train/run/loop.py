"""The training loop: to the end, with a progress bar, a history and checkpoints."""

import json
import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

from . import checkpoint, history
from .training import Training

SHOWN = ("loss", "temperature", "gap", "live")


def fit(training: Training, folder: Path, *, resume=False, every=50, title="train") -> None:
    """Train to the end.

    Args:
        folder: gets ``history.jsonl`` (a row every 5 steps) and ``state.pt``, replaced after every ``every`` steps.
        resume: continue from ``state.pt`` if there is one. On a CPU the continued training equals the uninterrupted
            one bit for bit, however it was ended.
        title: of the progress bar.
    """
    state = folder / "state.pt"
    if resume and state.exists():
        training.load_state_dict(checkpoint.load(state, training.device))
    else:
        training.prepare()
    with history.append_to(folder / "history.jsonl", training.step) as file, _bar(training, title) as bar:
        training.before_compiling = partial(bar.set_postfix_str, "compiling kernels")
        while training.step < training.steps:
            loss = training.advance()
            bar.update()
            if history.due(training):
                row = history.row(training, loss)
                bar.set_postfix_str(_shown(row), refresh=False)
                print(json.dumps(row), file=file, flush=True)
            if training.step % every == 0 or training.step == training.steps:
                checkpoint.save(state, training.state_dict())


def _shown(row: dict) -> str:
    return " ".join(f"{name} {row[name]:.3g}" for name in SHOWN if row.get(name))


def _bar(training: Training, title: str) -> tqdm:
    often = 0.2 if sys.stderr.isatty() else 10.0  # a log file wants few lines
    return tqdm(total=training.steps, initial=training.step, desc=title, unit="step", mininterval=often)
