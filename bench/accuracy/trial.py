"""A run of ``smart_train`` on the pictures of a cell."""

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_train.data import Data, load
from smart_train.run import checkpoint
from smart_train.run.evaluate import quality as accuracy
from smart_train.run.recipe import Recipe
from smart_train.run.stages import Stages

from .. import rows
from ..refused import refused
from .cells import Cell
from .record import Run, Task

SCRATCH = Path(__file__).parents[2] / "build" / "accuracy"  # dense models, which all methods of a seed share
STATE = "training/dense/state.pt"
NOTE = "dense.json"  # beside a dense model
HELD = 10_000  # images to validate on


def refusal(cell: Cell, method: str) -> str:
    """Return why a method does not prune what a cell has, or nothing."""
    return refused(cell.recipe(0, method))


def run(cell: Cell, task: Task, device: str, tested: str = "test") -> Run:
    """Train the dense model unless that is done, prune a copy by the method, and test both.

    Args:
        cell, task: what to run.
        device: where.
        tested: on the "test" images or on "validation" images; see ``pictures``.
    """
    recipe = cell.recipe(task.seed, task.method, task.settings)
    data = pictures(cell, task.seed, tested)
    place = SCRATCH / _digest(recipe, cell)
    dense, known = _dense(Stages(recipe, data, place, device), tested)
    start = time.process_time()
    with TemporaryDirectory() as out:
        model, last = Stages(recipe, data, Path(out), device).pruned(dense)
    spent = time.process_time() - start
    kept = sum(layer["kept"] for layer in last["layers"].values())
    weights = sum(layer["weights"] for layer in last["layers"].values())
    return Run(
        **asdict(task),
        tested=tested,
        **{"passes": recipe.pruned_steps, "prepared": last["prepared"]},
        **{"dense": known[tested], "accuracy": accuracy(model, data, device)},
        **{"kept": kept, "asked": round((1 - last["asked_sparsity"]) * weights)},
        **{"step_ms": 1e3 * spent / recipe.pruned_steps, "dense_step_ms": known["step_ms"]},
        **{"z2": last.get("z2"), "gap": last.get("last_gap")},
        **rows.environment(device),
    )


def _dense(stages: Stages, tested: str) -> tuple[nn.Module, dict[str, float]]:
    """Return the dense model, and its accuracy and the ``step_ms`` of its training, which are kept beside it."""
    if not stages.out.exists():
        _train(stages)
    model = stages.model()
    model.load_state_dict(checkpoint.load(stages.out / STATE, stages.device)["model"])
    note = stages.out / NOTE
    known = json.loads(note.read_text())
    if tested not in known:
        known[tested] = accuracy(model, stages.data, stages.device)
        checkpoint.write_text(note, json.dumps(known))
    return model, known


def _train(stages: Stages) -> None:
    """Train the dense model in a folder of its own, which becomes that of all when it is done."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=SCRATCH) as folder:
        out = Path(folder) / "dense"
        start = time.process_time()
        replace(stages, out=out).dense()
        milliseconds = 1e3 * (time.process_time() - start) / stages.recipe.dense_steps
        (out / NOTE).write_text(json.dumps({"step_ms": milliseconds}))
        with suppress(OSError):  # another process was first
            out.rename(stages.out)


def _digest(recipe: Recipe, cell: Cell) -> str:
    """Name what a dense model depends on: everything but how it is pruned afterwards."""
    pruning = ("pattern", "sparsity", "pruner", "options", "search_steps", "finetune_steps", "lr_scores", "lr_pruned")
    pruning += ("scope", "distill", "temperature", "warmup")
    parts = {name: value for name, value in recipe.to_dict().items() if name not in pruning}
    parts |= {"train": cell.train, "shrink": cell.shrink}
    return f"{cell.model}-{recipe.seed}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]}"


@lru_cache(maxsize=4)
def _loaded(name: str) -> Data:
    return load(name)


def pictures(cell: Cell, seed: int, tested: str = "test") -> Data:
    """Return the data of a cell: training images drawn by the seed, and images to test on.

    Those are all test images, or for "validation" 10,000 training images that were not drawn.
    """
    return _drawn(cell.data, cell.train, cell.shrink, seed, tested)


@lru_cache(maxsize=4)
def _drawn(name: str, train: int, shrink: int, seed: int, tested: str) -> Data:
    data = _loaded(name)
    images, labels = data.train
    count = train or len(labels)
    order = torch.from_numpy(np.random.default_rng([seed, count]).permutation(len(labels)))
    picked, held = order[:count], order[count : count + HELD]
    test, answers = data.test if tested == "test" else (images[held], labels[held])
    small = (_shrunk(images[picked], shrink), labels[picked]), (_shrunk(test, shrink), answers)
    return replace(data, train=small[0], test=small[1])


def _shrunk(images: Tensor, factor: int) -> Tensor:
    return images if factor == 1 else F.avg_pool2d(images.float(), factor).round().to(torch.uint8)
