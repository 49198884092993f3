"""Every pruner on the same dense models, with the same budget of batches: ``python -m bench accuracy``.

Rows are added as runs finish; what has a row is not run again, so the command can be stopped and goes on. The page
``docs/results-accuracy.md`` is written from the rows by ``python -m bench report``.
"""

import argparse
import time
from collections.abc import Iterable

from .. import lines
from . import cost
from .cells import CELLS, CORE, METHODS, STEPS, Cell
from .record import Run, key, path, read
from .trial import refusal, run

SLICE = 10.0  # minutes of --quick
DRY = {name: 4 for name in STEPS} | {"search_steps": 12, "finetune_steps": 2}  # more than any method looks at first
Task = tuple[str, str, int]  # cell, method, seed


def main(args: argparse.Namespace) -> int:
    """Run what has no row yet, or in a dry run every method for a few steps."""
    cells = args.cells or list(CORE)
    methods = args.pruners or list(METHODS)
    if args.dry_run:
        return rehearse(cells[0], methods)
    if args.cost:
        return cost.measure_all(cells, methods)
    place = args.out or path()
    tasks = wanted(cells, methods, range(args.seeds))
    missing = left(tasks, read([place]))
    minutes = SLICE if args.quick else args.minutes
    deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    done = 0
    for cell, method, seed in missing:
        if time.monotonic() > deadline:
            break
        found = run(cell, CELLS[cell], method, seed, args.device)
        lines.add(found, place)
        print(line(found), flush=True)
        done += 1
    print(f"{len(tasks) - len(missing)} runs had a row, {done} done now, {len(missing) - done} left -> {place}")
    return 0


def wanted(cells: Iterable[str], methods: Iterable[str], seeds: Iterable[int]) -> list[Task]:
    """Return the runs, seed by seed, so that what is stopped early has all methods on the same seeds.

    Left out, and said, is what a method is not for.
    """
    fitting = []
    for cell in cells:
        for method in methods:
            reason = refusal(CELLS[cell], method)
            if reason:
                print(f"{cell} {method}: {reason}")
            else:
                fitting.append((cell, method))
    return [(cell, method, seed) for seed in seeds for cell, method in fitting]


def left(tasks: Iterable[Task], known: dict[tuple, Run]) -> list[Task]:
    """Return the runs without a row."""
    return [(cell, method, seed) for cell, method, seed in tasks if key(cell, *METHODS[method], seed) not in known]


def line(found: Run) -> str:
    """Return a run in a few words."""
    return f"{found.cell} {found.method} seed {found.seed}: {found.accuracy:.2f} % (dense {found.dense:.2f} %)"


def rehearse(name: str, methods: list[str]) -> int:
    """Run a cell with every method for a few steps on a few digits; write nothing."""
    cell = Cell("convnet", CELLS[name].pattern, CELLS[name].sparsity, "digits", 256, settings=DRY)
    fitting = [method for method in methods if not refusal(cell, method)]
    for method in fitting:
        run(name, cell, method, 0, "cpu")
    print(f"{len(fitting)} methods rehearsed on {name}, nothing written")
    return 0
