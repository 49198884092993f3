"""Run the checks, what is worth most first; a line of JSON per check at once, one summary. No failure stops it."""

import argparse
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from .. import rows
from . import PARTS, ceilings
from .check import Context
from .listing import listed
from .pool import Pool, in_this_process
from .stages import MUST, STAGES, Stage, Task, plan

MINUTES = 8.0


def main(args: argparse.Namespace) -> int:
    """Run the parts; return 1 when anything is wrong or a stage of ``MUST`` unfinished, 2 with nothing to check."""
    device = "cpu" if args.dry_run else args.device
    if device == "cpu" and not args.dry_run:
        print("gpu-check needs a GPU; --dry-run rehearses it on the CPU")
        return 2
    raw, summary = files(args, device)
    run = Run(args, Context(device, args.small or args.dry_run, args.dry_run), raw)
    try:
        run.everything()
    finally:
        run.end()
    wrong = [r for r in run.results if not r["ok"]]
    left = {kind: len(tasks) for kind, tasks in run.left.items() if tasks}
    print(f"{len(run.results)} checks, {len(wrong)} wrong, {sum(left.values())} not done in time {left or ''}")
    if summary:
        content = {**run.environment, "checks": len(run.results), "wrong": [r["name"] for r in wrong], "left": left}
        summary.write_text(json.dumps({**content, "results": run.results}, indent=1) + "\n")
    if not run.results and not left:
        print(f"--filter must match a check, got {args.filter!r}, which none contains", file=sys.stderr)
        return 2
    return int(bool(wrong or left.keys() & MUST))


def files(args: argparse.Namespace, device: str) -> tuple[Path | None, Path | None]:
    """Return the file of JSON lines and that of the summary; none in a dry run that names none."""
    if args.dry_run and not args.out:
        return None, None
    summary = args.out or rows.RESULTS / "gpu-check" / f"{rows.default_path(device).stem}.json"
    summary.parent.mkdir(parents=True, exist_ok=True)
    return summary.with_suffix(".jsonl"), summary


class Run:
    """One run: its checks by stage, and what came out so far."""

    def __init__(self, args: argparse.Namespace, context: Context, raw: Path | None):
        self.context = context
        self.raw = raw
        self.environment = rows.environment(context.device)
        self.results: list[dict] = []
        minutes = args.minutes or (math.inf if context.dry else MINUTES)  # a rehearsal takes what it takes
        self.seconds = 60 * minutes
        self.begin = time.monotonic()
        processes = args.processes or (1 if context.dry else os.cpu_count() or 1)
        self.pool = Pool(processes) if processes > 1 else None
        tasks = (Task(part, check) for part in args.parts or PARTS for check in listed(part, context))
        self.left = plan(task for task in tasks if re.search(args.filter, task.check.name))

    def everything(self) -> None:
        """Take what already held, then every stage until its time is up, then what they left."""
        done = resume(self.raw, self.environment["commit"])
        for kind, tasks in self.left.items():
            held = [done[task.check.name] for task in tasks if task.check.name in done]
            self.left[kind] = [task for task in tasks if task.check.name not in done]
            for result in held:
                self.keep(result)
        for stage in STAGES:
            self.stage(stage, stage.until)
            if stage.kind == "limit":
                self.context = replace(self.context, limits=ceilings.known(self.results))
        for stage in STAGES:
            self.stage(stage, 1.0)

    def end(self) -> None:
        """End the processes."""
        if self.pool:
            self.pool.end()

    def stage(self, stage: Stage, until: float) -> None:
        """Run the checks of a stage until a share of the time is over."""
        tasks = self.left[stage.kind]
        if not tasks:
            return
        done = set()
        for task, outcome in self.outcomes(stage, tasks, self.begin + until * self.seconds):
            done.add(task)
            result = {"name": task.check.name, "part": task.part, "commit": self.environment["commit"], **outcome}
            self.write(result)
            self.keep(result)
        self.left[stage.kind] = [task for task in tasks if task not in done]

    def outcomes(self, stage: Stage, tasks: Iterable[Task], deadline: float) -> Iterator[tuple[Task, dict]]:
        """Yield what comes out of checks, from this process where there shall be but one."""
        if self.pool is None:
            return in_this_process(tasks, deadline)
        return self.pool.outcomes(tasks, self.context, 1 if stage.alone else self.pool.count, deadline)

    def keep(self, result: dict) -> None:
        """Take a result and print it."""
        self.results.append(result)
        print(line(result), flush=True)

    def write(self, result: dict) -> None:
        """Append a result to the file of JSON lines."""
        if self.raw:
            with open(self.raw, "a") as file:
                file.write(json.dumps(result) + "\n")


def resume(raw: Path | None, commit: str) -> dict[str, dict]:
    """Return the checks of this commit that already held."""
    if raw is None or not raw.exists():
        return {}
    results = map(json.loads, raw.read_text().splitlines())
    return {r["name"]: r for r in results if r["ok"] and r["commit"] == commit}


def line(result: dict) -> str:
    """Return one line for the terminal."""
    hidden = ("name", "part", "ok", "commit", "seed", "traceback")
    shown = ", ".join(f"{key} {_short(value)}" for key, value in result.items() if key not in hidden)
    return f"{'ok   ' if result['ok'] else 'WRONG'} {result['name']}  {shown}"


def _short(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(_short, value)) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
