"""Every pruner on the same dense models, with the same budget of batches: ``python -m bench accuracy``.

First a search finds each method's settings, where that has no row yet; ``--search`` ends there. Rows are added as runs
finish; what has a row is not run again, so the command can be stopped and goes on. Several may add to one file, for
cells of their own. The page ``docs/results-accuracy.md`` is written from the rows by ``python -m bench report``.
"""

import argparse
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from .. import lines
from . import cost, variants
from .cells import CELLS, CORE, METHODS, STEPS, Cell
from .record import FOLDER, SEARCH, VARIANTS, Run, Task, path, read
from .search import chosen, kind, searches
from .trial import refusal, run

SLICE = 10.0  # minutes of --quick
DRY = {name: 4 for name in STEPS} | {"search_steps": 12, "finetune_steps": 2}  # more than any method looks at first
SEARCHES = FOLDER / SEARCH


def main(args: argparse.Namespace) -> int:
    """Run what has no row yet, or in a dry run every method for a few steps."""
    cells = args.cells or list(CORE)
    methods = args.pruners or list(METHODS)
    if args.dry_run:
        return rehearse(cells[0], methods)
    if args.cost:
        return cost.measure_all(cells, methods)
    minutes = SLICE if args.quick else args.minutes
    deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    if args.variants:
        cells = [cell for cell in args.cells or variants.WHERE if cell in variants.WHERE]
        advance(variants.tasks(searched(), cells), path(FOLDER / VARIANTS), "validation", args.device, deadline)
        return 0
    kinds = dict.fromkeys(kind(CELLS[cell]) for cell in cells)
    whole = advance(searches(kinds, methods), path(SEARCHES), "validation", args.device, deadline)
    if whole and not args.search:
        tasks = wanted(cells, methods, range(args.seeds), searched())
        advance(tasks, args.out or path(), "test", args.device, deadline)
    return 0


def searched() -> dict[tuple, Run]:
    """Return the rows of all searches."""
    return read(sorted(SEARCHES.glob("*.jsonl")))


def advance(tasks: list[Task], place: Path, tested: str, device: str, deadline: float) -> bool:
    """Run what has no row, until the deadline, and add its rows; return whether all have one."""
    known = read(sorted(place.parent.glob("*.jsonl"))) if tested == "validation" else read([place])
    missing = [task for task in tasks if task.key not in known]
    done = 0
    for task in missing:
        if time.monotonic() > deadline:
            break
        found = run(CELLS[task.cell], task, device, tested)
        lines.add(found, place)
        print(line(found), flush=True)
        done += 1
    print(f"{len(tasks) - len(missing)} runs had a row, {done} done now, {len(missing) - done} left -> {place}")
    return done == len(missing)


def wanted(
    cells: Iterable[str], methods: Iterable[str], seeds: Iterable[int], known: Mapping[tuple, Run]
) -> list[Task]:
    """Return the runs, seed by seed, so that what is stopped early has all methods on the same seeds.

    Left out, and said, is what a method is not for.

    Args:
        cells, methods, seeds: what to run.
        known: rows of searches, whose best settings are taken.
    """
    fitting = []
    for cell in cells:
        for method in methods:
            reason = refusal(CELLS[cell], method)
            if reason:
                print(f"{cell} {method}: {reason}")
            else:
                fitting.append((cell, method, chosen(kind(CELLS[cell]), method, known)))
    return [Task(*each, seed) for seed in seeds for each in fitting]


def line(found: Run) -> str:
    """Return a run in a few words."""
    return f"{found.cell} {found.method} seed {found.seed}: {found.accuracy:.2f} % (dense {found.dense:.2f} %)"


def rehearse(name: str, methods: list[str]) -> int:
    """Run a cell with every method for a few steps on a few digits; write nothing."""
    cell = Cell("convnet", CELLS[name].pattern, CELLS[name].sparsity, "digits", 256, settings=DRY)
    fitting = [method for method in methods if not refusal(cell, method)]
    for method in fitting:
        run(cell, Task(name, method, {}, 0), "cpu")
    print(f"{len(fitting)} methods rehearsed on {name}, nothing written")
    return 0
