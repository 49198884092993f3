"""Plans for a speed-up beside one pattern for all layers: ``python -m bench pareto``.

Rows are added as runs finish; what has a row is not run again. First seed 0 of every plan and of the whole grid, then
the other seeds of the plans, and of the best of the grid that are as fast as they. ``docs/results-pareto.md`` is
written from the rows by ``python -m bench report``.
"""

import argparse
import tempfile
import time
from pathlib import Path

from .. import lines
from .choices import GRID, MODELS, PLANS, Choice
from .compare import Front
from .record import Point, path, read
from .trial import run

FEW = (4, 8, 2)  # steps of a rehearsal
Task = tuple[str, Choice, int]


def main(args: argparse.Namespace) -> int:
    """Run what has no row yet, or in a dry run a plan and a pattern for a few steps."""
    models = args.models or list(MODELS)
    if args.dry_run:
        return rehearse()
    place = args.out or path()
    deadline = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    done = 0
    while time.monotonic() < deadline and (task := following(models, args.seeds, read([place]))):
        model, choice, seed = task
        point = run(model, choice, choice.recipe(model, seed), args.device)
        lines.add(point, place)
        print(line(point), flush=True)
        done += 1
    print(f"{done} runs done now, {'more' if task else 'none'} left -> {place}")
    return 0


def following(models: list[str], seeds: int, known: dict[tuple, Point]) -> Task | None:
    """Return the run that comes next, None if all are done."""
    fronts = {model: Front.of(known.values(), model) for model in models}
    return next((task for task in _tasks(fronts, seeds) if (task[0], str(task[1]), task[2]) not in known), None)


def _tasks(fronts: dict[str, Front], seeds: int) -> list[Task]:
    first = [(model, choice, 0) for model in fronts for choice in (*PLANS, *GRID)]
    later = [(model, choice, seed) for seed in range(1, seeds) for model in fronts for choice in _chosen(fronts[model])]
    return first + later


def _chosen(front: Front) -> list[Choice]:
    """Return the plans and their rivals."""
    names = {name for plan in PLANS for name in front.rivals(str(plan))}
    return [*PLANS, *(choice for choice in GRID if str(choice) in names)]


def line(point: Point) -> str:
    """Return a run in a few words."""
    return (
        f"{point.model} {point.choice} seed {point.seed}: {point.accuracy:.2f} % (dense {point.dense:.2f} %), "
        f"{point.speedup:.2f}x"
    )


def rehearse() -> int:
    """Take a plan and a pattern through a few steps on digits; write nothing."""
    with tempfile.TemporaryDirectory() as folder:
        for choice in (PLANS[0], GRID[0]):
            recipe = choice.recipe("cnn", 0, FEW, "digits")
            run("cnn", choice, recipe, "cpu", Path(folder))
    print("a plan and a pattern rehearsed, nothing written")
    return 0
