"""Define the cells: a task, a pattern and a budget each, written down before anything was compared."""

from dataclasses import dataclass
from typing import Any

from smart_train import PRUNERS
from smart_train.run.recipe import Recipe

from .data import TASKS

STEPS = {"dense_steps": 1000, "search_steps": 60, "finetune_steps": 60}
BATCH = 8
SCENES = {"train": 2000, "test": 300}
FAIR = ("smart", "oneshot", "gradual", "gradual-erk")  # for all tasks; the first is ours
METHODS: dict[str, tuple[str, dict[str, Any]]] = {  # name in tables -> pruner, options
    **{name: (name, {}) for name in PRUNERS},
    "gradual-erk": ("gradual", {"spread": "erk"}),
}


@dataclass(frozen=True)
class Cell:
    """One comparison.

    Args:
        task: a key of ``data.TASKS``.
        pattern, sparsity: as in ``Recipe``.
    """

    task: str
    pattern: str
    sparsity: float

    def recipe(self, method: str, seed: int, steps: dict[str, int]) -> Recipe:
        """Return the settings of a run, the same for all methods but for pruner and options."""
        pruner, options = METHODS[method]
        kind = TASKS[self.task]
        own = {"pruner": pruner, "options": options, "seed": seed, "batch": BATCH, **kind.settings, **steps}
        return Recipe.for_model(kind.model, data=self.task, pattern=self.pattern, sparsity=self.sparsity, **own)


CELLS = {
    f"{task}-{name}": Cell(task, pattern, sparsity)
    for task in ("segment", "detect", "enlarge")
    for name, pattern, sparsity in (("16x16-80", "block:16x16", 0.8), ("channel-50", "channel", 0.5))
}


def title(method: str) -> str:
    """Return how a method is called, with its options."""
    pruner, options = METHODS[method]
    return ", ".join([PRUNERS[pruner].title, *map(str, options.values())])
