"""A run of ``smart_train`` on the pictures of a cell."""

import hashlib
import json
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_kernels import parse
from smart_train import PRUNERS
from smart_train.data import Data, load
from smart_train.run.evaluate import quality as accuracy
from smart_train.run.recipe import Recipe
from smart_train.run.stages import Stages

from .. import rows
from .cells import Cell
from .record import Run

SCRATCH = Path(__file__).parents[2] / "build" / "accuracy"  # dense models, which all methods of a seed share


def refusal(cell: Cell, method: str) -> str:
    """Return why a method does not prune what a cell has, or nothing."""
    recipe = cell.recipe(0, method)
    model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256))
    try:
        PRUNERS[recipe.pruner](model, parse(recipe.pattern), recipe.sparsity, **recipe.pruner_settings)
    except ValueError as error:
        return str(error)
    return ""


def run(name: str, cell: Cell, method: str, seed: int, device: str) -> Run:
    """Train the dense model unless that is done, prune a copy by the method, and test both."""
    recipe = cell.recipe(seed, method)
    data = pictures(cell, seed)
    place = SCRATCH / _digest(recipe, cell)
    pruning = Stages(recipe, data, place / "last", device)
    dense, milliseconds = _dense(Stages(recipe, data, place, device, resume=True))
    start = time.process_time()
    model, last = pruning.pruned(dense)
    spent = time.process_time() - start
    kept = sum(layer["kept"] for layer in last["layers"].values())
    weights = sum(layer["weights"] for layer in last["layers"].values())
    return Run(
        **{"cell": name, "pruner": recipe.pruner, "seed": seed, "options": recipe.options},
        **{"passes": recipe.pruned_steps, "prepared": last["prepared"]},
        **{"dense": accuracy(dense, data, device), "accuracy": accuracy(model, data, device)},
        **{"kept": kept, "asked": round((1 - last["asked_sparsity"]) * weights)},
        **{"step_ms": 1e3 * spent / recipe.pruned_steps, "dense_step_ms": milliseconds},
        **{"z2": last.get("z2"), "gap": last.get("last_gap")},
        **rows.environment(device),
    )


def _dense(stages: Stages) -> tuple[nn.Module, float]:
    """Return the dense model and the milliseconds of processor time that a step of it took when it was trained."""
    note = stages.out / "dense.json"
    start = time.process_time()
    model = stages.dense()
    if not note.exists():
        note.write_text(json.dumps(1e3 * (time.process_time() - start) / max(1, stages.recipe.dense_steps)))
    return model, json.loads(note.read_text())


def _digest(recipe: Recipe, cell: Cell) -> str:
    """Name what a dense model depends on: everything but how it is pruned afterwards."""
    pruning = ("pattern", "sparsity", "pruner", "options", "search_steps", "finetune_steps", "lr_scores", "lr_pruned")
    parts = {name: value for name, value in recipe.to_dict().items() if name not in pruning}
    parts |= {"train": cell.train, "shrink": cell.shrink}
    return f"{cell.model}-{recipe.seed}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]}"


@lru_cache(maxsize=4)
def _loaded(name: str) -> Data:
    return load(name)


def pictures(cell: Cell, seed: int) -> Data:
    """Return the data of a cell: all test images, and training images drawn by the seed."""
    data = _loaded(cell.data)
    images, labels = data.train
    count = cell.train or len(labels)
    picked = torch.from_numpy(np.random.default_rng([seed, count]).permutation(len(labels))[:count])
    test, answers = data.test
    small = (_shrunk(images[picked], cell.shrink), labels[picked]), (_shrunk(test, cell.shrink), answers)
    return replace(data, train=small[0], test=small[1])


def _shrunk(images: Tensor, factor: int) -> Tensor:
    return images if factor == 1 else F.avg_pool2d(images.float(), factor).round().to(torch.uint8)
