"""Pruners where nothing is classified: pixels, boxes, larger pictures: ``python -m bench tasks``.

Rows are added as runs finish; what has a row is not run again, so the command can be stopped and goes on. The page
``docs/results-tasks.md`` is written from the rows by ``python -m bench report``.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from .. import lines
from .cells import CELLS, FAIR, SCENES, STEPS
from .data import TASKS, data_of, squares
from .record import Run, Task, path, read
from .trial import refusal, run

FEW = {"dense_steps": 2, "search_steps": 5, "finetune_steps": 1}  # of a rehearsal; more than a method looks at first


def main(args: argparse.Namespace) -> int:
    """Run what has no row yet, or in a dry run every task for a few steps."""
    cells = args.cells or list(CELLS)
    if args.dry_run:
        return rehearse(cells)
    place = args.out or path()
    deadline = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    tasks = wanted(cells, args.pruners or (), range(args.seeds))
    known = read([place])
    missing = [task for task in tasks if task not in known]
    done = 0
    for task in missing:
        if time.monotonic() > deadline:
            break
        found = run(task, data_of(CELLS[task[0]].task, task[2], **SCENES), STEPS, args.device)
        lines.add(found, place)
        print(line(found), flush=True)
        done += 1
    print(f"{len(tasks) - len(missing)} runs had a row, {done} done now, {len(missing) - done} left -> {place}")
    return 0


def wanted(cells: Iterable[str], methods: Sequence[str], seeds: Iterable[int]) -> list[Task]:
    """Return the runs, seed by seed: of these methods, or of the usual ones and the one that claims the task."""
    fitting = []
    for cell in cells:
        for method in methods or (*FAIR, TASKS[CELLS[cell].task].claim):
            reason = refusal(CELLS[cell], method)
            if reason:
                print(f"{cell} {method}: {reason}")
            else:
                fitting.append((cell, method))
    return [(cell, method, seed) for seed in seeds for cell, method in fitting]


def line(found: Run) -> str:
    """Return a run in a few words."""
    return (
        f"{found.cell} {found.method} seed {found.seed}: {found.quality:.2f} {found.metric} (dense {found.dense:.2f})"
    )


def rehearse(cells: Iterable[str]) -> int:
    """Take ours and the claimant of each cell through a few steps; write nothing."""
    tasks = [task for task in wanted(cells, (), [0]) if task[1] in (FAIR[0], TASKS[CELLS[task[0]].task].claim)]
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks:
            run(task, data_of(CELLS[task[0]].task, 0, 32, 4, squares), FEW, "cpu", Path(folder))
    print(f"{len(tasks)} runs rehearsed, nothing written")
    return 0
