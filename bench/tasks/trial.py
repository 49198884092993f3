"""A run of ``smart_train`` on the scenes of a task."""

import hashlib
import json
import time
from pathlib import Path

from torch import nn

from smart_train.data import Data
from smart_train.run.evaluate import quality
from smart_train.run.recipe import Recipe
from smart_train.run.stages import Stages

from .. import rows
from ..refused import refused
from .cells import CELLS, Cell
from .record import Run, Task

SCRATCH = Path(__file__).parents[2] / "build" / "tasks"  # dense models, which all methods of a seed share
AFTERWARDS = ("pattern", "sparsity", "pruner", "options", "search_steps", "finetune_steps")  # not of the dense model


def refusal(cell: Cell, method: str) -> str:
    """Return why a method does not prune what a cell has, or nothing."""
    return refused(cell.recipe(method, 0, {}))


def run(task: Task, data: Data, steps: dict[str, int], device: str, scratch: Path = SCRATCH) -> Run:
    """Train the dense model unless that is done, prune a copy by the method, and test both.

    Args:
        task: what to run.
        data: of the task and the seed.
        steps: of the stages, as in ``Recipe``.
        device: where.
        scratch: for what is trained.
    """
    name, method, seed = task
    cell = CELLS[name]
    recipe = cell.recipe(method, seed, steps)
    place = scratch / f"{cell.task}-{seed}-{_digest(recipe)}"
    dense, known = _dense(Stages(recipe, data, place, device, resume=True))
    start = time.process_time()
    model, last = Stages(recipe, data, place / "last", device).pruned(dense)
    spent = time.process_time() - start
    layers = last["layers"].values()
    return Run(
        **{"cell": name, "method": method, "seed": seed, "metric": data.task.metric},
        **{"passes": recipe.pruned_steps, "prepared": last["prepared"]},
        **{"dense": known["quality"], "quality": quality(model, data, device)},
        **{"kept": sum(layer["kept"] for layer in layers)},
        **{"asked": round((1 - last["asked_sparsity"]) * sum(layer["weights"] for layer in layers))},
        **{"step_ms": 1e3 * spent / recipe.pruned_steps, "dense_step_ms": known["step_ms"], "z2": last.get("z2")},
        **rows.environment(device),
    )


def _dense(stages: Stages) -> tuple[nn.Module, dict[str, float]]:
    """Return the dense model, and its quality and the ``step_ms`` of its training, which are kept beside it."""
    note = stages.out / "dense.json"
    start = time.process_time()
    model = stages.dense()
    if not note.exists():
        spent = 1e3 * (time.process_time() - start) / stages.recipe.dense_steps
        found = {"step_ms": spent, "quality": quality(model, stages.data, stages.device)}
        note.write_text(json.dumps(found))
    return model, json.loads(note.read_text())


def _digest(recipe: Recipe) -> str:
    """Name what a dense model depends on: everything but how it is pruned afterwards."""
    parts = {name: value for name, value in recipe.to_dict().items() if name not in AFTERWARDS}
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
