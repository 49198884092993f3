"""Every pruner on the same dense models, with the same budget of batches: ``python -m bench accuracy``.

Rows are added as runs finish; what has a row is not run again, so the command can be stopped and goes on. The page
``docs/results-accuracy.md`` is written from the rows by ``python -m bench report``.
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from smart_train import PRUNERS

from .cells import CELLS, CORE, STEPS, Cell
from .record import Run, add, path, read
from .trial import run

SLICE = 10.0  # minutes of --quick
DRY = {name: 4 for name in STEPS}
Task = tuple[str, str, int]  # cell, pruner, seed


def main(args: argparse.Namespace) -> int:
    """Run what has no row yet; return 2 where nothing fits the filter."""
    tasks = wanted(args.cells or list(CORE), args.pruners or list(PRUNERS), range(args.seeds))
    if args.dry_run:
        return rehearse([task for task in tasks if task[2] == 0])
    place = args.out or path()
    missing = left(tasks, read([place]))
    minutes = SLICE if args.quick else args.minutes
    deadline = time.monotonic() + 60 * minutes if minutes else None
    done = 0
    for task in missing:
        if deadline and time.monotonic() > deadline:
            break
        found = attempt(task, args.device)
        if found:
            add(found, place)
        done += 1
    print(f"{len(tasks) - len(missing)} runs had a row, {done} done now, {len(missing) - done} left -> {place}")
    return 0


def wanted(cells: Iterable[str], pruners: Iterable[str], seeds: Iterable[int]) -> list[Task]:
    """Return the runs, seed by seed, so that what is stopped early has all methods on the same seeds."""
    return [(cell, pruner, seed) for seed in seeds for cell in cells for pruner in pruners]


def left(tasks: Iterable[Task], known: dict[tuple, Run]) -> list[Task]:
    """Return the runs without a row."""
    return [task for task in tasks if (task[0], task[1], "{}", task[2]) not in known]


def attempt(task: Task, device: str) -> Run | None:
    """Run and print one; None where the method says that it is not for the cell's pattern."""
    cell, pruner, seed = task
    try:
        found = run(cell, CELLS[cell], pruner, seed, {}, device)
    except ValueError as error:
        print(f"{cell} {pruner}: {error}", flush=True)
        return None
    print(f"{cell} {pruner} seed {seed}: {found.accuracy:.2f} % (dense {found.dense:.2f} %)", flush=True)
    return found


def rehearse(tasks: list[Task]) -> int:
    """Run the first cell with every pruner for a few steps; write nothing."""
    first = tasks[0][0]
    small = Cell("convnet", CELLS[first].pattern, CELLS[first].sparsity, "digits", 256, settings=DRY)
    for _, pruner, seed in (task for task in tasks if task[0] == first):
        run(first, small, pruner, seed, {}, "cpu")
    print(f"{len(tasks)} runs listed, those of {first} rehearsed, nothing written")
    return 0
