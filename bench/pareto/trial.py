"""A run: train dense once a seed, prune as a choice says, compress, and measure beside the best dense model."""

import copy
import shutil
from functools import lru_cache
from pathlib import Path

from smart_kernels import compare
from smart_train.data import Data, load
from smart_train.run.compressed import compressed
from smart_train.run.evaluate import quality
from smart_train.run.recipe import Recipe
from smart_train.run.stages import Stages

from .. import rows
from .choices import Choice
from .record import Point

SCRATCH = Path(__file__).parents[2] / "build" / "pareto"  # dense models, which all choices of a seed share
PATIENCE = 0.2  # seconds to go on measuring a layer whose times have not settled


def run(model: str, choice: Choice, recipe: Recipe, device: str, scratch: Path = SCRATCH) -> Point:
    """Return what became of a model."""
    data = _loaded(recipe.data)
    place = scratch / f"{model}-{recipe.data}-{recipe.dense_steps}-{recipe.seed}"
    dense = Stages(recipe, data, place, device, resume=True).dense()
    shutil.rmtree(place / "last", ignore_errors=True)
    stages = Stages(recipe, data, place / "last", device)
    pruned, last = stages.pruned(dense)
    found = stages.aim(dense)
    right = {"dense": quality(dense, data, device), "accuracy": quality(pruned, data, device)}
    models = {"dense": copy.deepcopy(dense).eval(), recipe.pruner: pruned.eval()}
    results = compressed(models, recipe.pruner, stages.example, found, PATIENCE)
    fast = compare(results["dense"].model, results[recipe.pruner].model, stages.example)
    plan = {} if found.plan is None else {each.names[0]: [each.pattern, each.density] for each in found.plan.layers}
    return Point(
        **{"model": model, "choice": str(choice), "seed": recipe.seed, **right, "plan": plan},
        **{"asked": choice.speedup, "predicted": found.plan and found.plan.dense_ms / found.plan.ms},
        **{"sparsity": last["kept_sparsity"], "speedup": fast.speedup, "spread": fast.spread},
        **{"dense_ms": fast.dense_ms, "sparse_ms": fast.sparse_ms},
        **rows.environment(device),
    )


@lru_cache(maxsize=1)
def _loaded(name: str) -> Data:
    return load(name)
