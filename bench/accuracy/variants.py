"""Changes of SMART, one at a time, beside SMART as it is, on cells and seeds that are not in the comparison."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .cells import CELLS, VARIANT
from .compare import OURS
from .paired import Difference, paired
from .record import Run, Task
from .search import SEED, chosen, kind

SEEDS = range(SEED + 1, SEED + 4)
TILES = ("cnn-16x16-95", "mobilenet-32x32-70", "vit-64x16-80")
GROUPS = ("vit-2:8",)
RIVAL = "gradual-erk"  # SMART's lead over it is compared at a longer budget
TWICE = {"search_steps": 234, "finetune_steps": 234, VARIANT: "twice"}
RANKED = (*TILES, "cnn-channel-70")
WHERE = RANKED + GROUPS


@dataclass(frozen=True)
class Variant:
    """A change of SMART.

    Attributes:
        said: what was changed.
        settings: of the run; None for what was tried in code that has not stayed.
        cells: where it makes sense.
    """

    said: str
    settings: Mapping[str, Any] | None = None
    cells: tuple[str, ...] = field(default=WHERE)


VARIANTS: dict[str, Variant] = {
    "no floor": Variant("soft masks do not know that hard ones keep the best tile of each layer", None, RANKED),
    "saliency": Variant("start from saliency everywhere", {"init": "saliency"}, RANKED),
    "cool": Variant("temperature from .05 instead of .2", {"temperature": [0.05, 1e-3]}),
    "short": Variant("a quarter of the steps are search instead of half", {"search_steps": 59, "finetune_steps": 175}),
    "distil": Variant("learn from the dense model's probabilities; its passes are not counted", {"distill": True}),
    "follow": Variant("scores move with the standardised magnitudes from step to step, plus what they learn"),
    "erk": Variant("scores are shifted per layer at the start, so that the budget begins as ERK's", None, RANKED),
    "regrow": Variant(
        "in six steps of finetuning the 3 % of tiles kept with the smallest squared gradient of their mask give way to "
        "the tiles pruned whose mask would lower the loss most",
        None,
        RANKED,
    ),
    "snr": Variant("a score's step is scaled by 1 - .053 v / m^2, at least 0: Adam's m and v, .053 what noise gives"),
    "momentum": Variant("scores do not move in the first 12 steps, Adam's moments gather"),
    "agree": Variant("a score does not move where its gradient and Adam's momentum have different signs"),
    "group": Variant("Adam's second moment is the mean over the group", None, GROUPS),
}


def tasks(known: Mapping[tuple, Run], cells: Iterable[str] = WHERE) -> list[Task]:
    """Return the runs of some cells: SMART as the search has set it, changes of settings, longer budgets."""
    return [task for seed in SEEDS for cell in cells for task in _tasks(cell, seed, known)]


def _tasks(cell: str, seed: int, known: Mapping[tuple, Run]) -> list[Task]:
    ours, theirs = (base(cell, method, known) for method in (OURS, RIVAL))
    changed = [(name, each.settings) for name, each in VARIANTS.items() if each.settings and cell in each.cells]
    found = [Task(cell, OURS, ours, seed), *(varied(cell, *each, seed, known) for each in changed)]
    if cell in RANKED:
        found += [Task(cell, OURS, {**ours, **TWICE}, seed), Task(cell, RIVAL, theirs, seed)]
        found.append(Task(cell, RIVAL, {**theirs, **TWICE}, seed))
    return found


def varied(cell: str, name: str, settings: Mapping[str, Any], seed: int, known: Mapping[tuple, Run]) -> Task:
    """Return a run of a variant."""
    return Task(cell, OURS, {**base(cell, OURS, known), **settings, VARIANT: name}, seed)


def base(cell: str, method: str, known: Mapping[tuple, Run]) -> dict[str, Any]:
    """Return a method's settings in a cell, as searches have found them."""
    return chosen(kind(CELLS[cell]), method, known)


def difference(runs: Iterable[Run], cell: str, name: str) -> Difference | None:
    """Return a variant of SMART minus SMART as it is, paired by seed."""
    return paired(_accuracies(runs, cell, OURS, name), _accuracies(runs, cell, OURS))


def lead(runs: Iterable[Run], cell: str, name: str) -> Difference | None:
    """Return SMART minus the rival, both in a variant or, with an empty name, as they are."""
    return paired(_accuracies(runs, cell, OURS, name), _accuracies(runs, cell, RIVAL, name))


def _accuracies(runs: Iterable[Run], cell: str, method: str, name: str = "") -> dict[int, float]:
    chosen_ = [run for run in runs if (run.cell, run.method, run.settings.get(VARIANT, "")) == (cell, method, name)]
    return {run.seed: run.accuracy for run in chosen_}
