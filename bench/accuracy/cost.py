"""What a pruner costs in memory, counted in torch's allocator: ``python -m bench accuracy --cost``.

No training is needed for that: a fresh model of a cell takes a short search, once with each method and once without.
Every allocation and release in between is added up, those inside of operators and of backward too. So the numbers are
exact and do not depend on the machine's load, but they are those of a CPU: on a GPU masked products keep other things.
"""

import gc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from smart_train import PRUNERS
from smart_train.data import Data
from smart_train.run.aim import aim_of
from smart_train.run.course import Course
from smart_train.run.recipe import Recipe
from smart_train.run.stages import Stages
from smart_train.run.training import Training

from .. import lines, rows
from .cells import CELLS, Cell
from .record import FOLDER
from .trial import pictures, refusal

COSTS = FOLDER / "cost"
SEARCH = 12  # steps that are taken: every kind of step of every method is among them
REST = 10  # steps that are not, so that no method looks at more batches than there are


@dataclass(frozen=True, kw_only=True)
class Cost(rows.Measured):
    """Record the memory of a method on a cell.

    Attributes:
        cell, method: what was run; see ``cells.CELLS`` and ``cells.METHODS``.
        held, dense_held: bytes between two steps late in the search: weights, and what optimizers and pruner keep.
        peak, dense_peak: the most bytes at any time up to then.
    """

    cell: str
    method: str
    held: int
    peak: int
    dense_held: int
    dense_peak: int

    @property
    def key(self) -> tuple[str, str]:
        """Return what makes it the same measurement."""
        return self.cell, self.method


def read(folder: Path = COSTS) -> dict[tuple, Cost]:
    """Return the rows of a folder by cell and method."""
    return lines.read(Cost, sorted(folder.glob("*.jsonl")))


def measure_all(cells: Iterable[str], methods: Iterable[str]) -> int:
    """Add a row for each method on each cell that has none; return the exit code."""
    place = COSTS / rows.default_path("cpu").name
    known = read()
    methods = list(methods)
    todo = [(cell, method) for cell in cells for method in methods if not refusal(CELLS[cell], method)]
    for cell, own in groupby((task for task in todo if task not in known), key=lambda task: task[0]):
        dense = dense_of(CELLS[cell])
        for _, method in own:
            found = measure(cell, method, dense)
            lines.add(found, place)
            print(line(found), flush=True)
    print(f"{len(todo)} measurements have a row -> {place}")
    return 0


def line(found: Cost) -> str:
    """Return a measurement in a few words."""
    held, peak = found.held / found.dense_held, found.peak / found.dense_peak
    return f"{found.cell} {found.method}: held {held:.2f}x, peak {peak:.2f}x"


def measure(name: str, method: str, dense: tuple[int, int]) -> Cost:
    """Return the memory of a method on a cell, beside what ``dense_of`` has counted there."""
    setting = _setting(CELLS[name], method)
    held, peak = counted(lambda: searched(_pruned(*setting)))
    memory = {"held": held, "peak": peak, "dense_held": dense[0], "dense_peak": dense[1]}
    return Cost(cell=name, method=method, **memory, **rows.environment("cpu"))


def dense_of(cell: Cell) -> tuple[int, int]:
    """Return held and peak of a training without a pruner."""
    setting = _setting(cell, "oneshot")
    return counted(lambda: searched(_unpruned(*setting)))


def _setting(cell: Cell, method: str) -> tuple[Data, Recipe]:
    """Return the data and the short recipe of a method."""
    data = pictures(cell, 0)
    recipe = replace(cell.recipe(0, method), search_steps=SEARCH, finetune_steps=REST)
    data.batch(0, recipe.batch, recipe.seed)  # what the data remembers is nobody's cost
    return data, recipe


def _unpruned(data: Data, recipe: Recipe) -> Training:
    return Training(Stages(recipe, data, Path(), "cpu").model(), data, recipe, _course(recipe))


def _pruned(data: Data, recipe: Recipe) -> Training:
    """Return a training with its pruner, as ``Stages`` makes it."""
    stages = Stages(recipe, data, Path(), "cpu")
    model = stages.model()
    found = aim_of(recipe, model, stages.example, trained=False)
    coupling = {"example_input": stages.example} if found.whole_channels else {}
    pruner = found.pruner(PRUNERS[recipe.pruner], model, {**recipe.pruner_settings, **coupling})
    return Training(model, data, recipe, _course(recipe), pruner=pruner)


def _course(recipe: Recipe) -> Course:
    return Course(recipe.pruned_steps, flat=recipe.search_steps)


def searched(training: Training) -> Training:
    """Take the steps, those before the first included."""
    training.prepare()
    for _ in range(SEARCH):
        training.advance()
    return training


def counted(make: Callable[[], object]) -> tuple[int, int]:
    """Return the bytes of tensors that are alive when something has been made, and the most at any time before."""
    gc.collect()  # what others have left behind is not to be released in between
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        made = make()
        gc.collect()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    del made
    return now, most


def shown(known: Mapping[tuple, Cost], method: str) -> list[str]:
    """Return held and peak over those of dense training, from the least to the most of the cells that were counted."""
    own = [cost for cost in known.values() if cost.method == method]
    if not own:
        return ["not run"] * 2
    return [_span([each.held / each.dense_held for each in own]), _span([each.peak / each.dense_peak for each in own])]


def _span(ratios: list[float]) -> str:
    return "–".join(dict.fromkeys(f"{ratio:.2f}" for ratio in (min(ratios), max(ratios)))) + "x"
