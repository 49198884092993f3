"""Run the parts: one line of JSON per check at once, a table per part, one summary. Nothing stops at a failure."""

import argparse
import importlib
import json
import re
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from .. import rows
from . import PARTS
from .check import Check, Context


def main(args: argparse.Namespace) -> int:
    """Run the parts; return 1 when anything is wrong or unfinished, 2 when there is nothing to check."""
    device = "cpu" if args.dry_run else args.device
    if device == "cpu" and not args.dry_run:
        print("gpu-check needs a GPU; --dry-run rehearses it on the CPU")
        return 2
    raw, summary = outputs(args, device)
    env = rows.environment(device)
    results, left = run(args, Context(device, args.small or args.dry_run, args.dry_run), env["commit"], raw)
    wrong = [r for r in results if not r["ok"]]
    print(f"{len(results)} checks, {len(wrong)} wrong, {left} not started within --minutes {args.minutes:g}")
    if summary:
        content = {**env, "checks": len(results), "wrong": [r["name"] for r in wrong], "left": left, "results": results}
        summary.write_text(json.dumps(content, indent=1) + "\n")
    if not results and not left:
        print(f"--filter must match a check, got {args.filter!r}, which none contains", file=sys.stderr)
        return 2
    return int(bool(wrong or left))


def run(args: argparse.Namespace, context: Context, commit: str, raw: Path | None) -> tuple[list[dict], int]:
    """Return the results of the checks, each printed at once, and how many the time did not suffice for."""
    done = resume(raw, commit)
    deadline = time.monotonic() + 60 * args.minutes
    results: list[dict] = []
    left = 0
    for part in args.parts or PARTS:
        for check in checks(part, context):
            if not re.search(args.filter, check.name):
                continue
            if check.name not in done and time.monotonic() > deadline:
                left += 1
                continue
            result = done.get(check.name) or record(check, part, commit, raw)
            results.append(result)
            print(line(result), flush=True)
    return results, left


def outputs(args: argparse.Namespace, device: str) -> tuple[Path | None, Path | None]:
    """Return the file of JSON lines and that of the summary; none in a dry run that names none."""
    if args.dry_run and not args.out:
        return None, None
    summary = args.out or rows.RESULTS / "gpu-check" / f"{rows.default_path(device).stem}.json"
    summary.parent.mkdir(parents=True, exist_ok=True)
    return summary.with_suffix(".jsonl"), summary


def resume(raw: Path | None, commit: str) -> dict[str, dict]:
    """Return the checks of this commit that already held."""
    if raw is None or not raw.exists():
        return {}
    results = map(json.loads, raw.read_text().splitlines())
    return {r["name"]: r for r in results if r["ok"] and r["commit"] == commit}


def checks(part: str, context: Context) -> Iterator[Check]:
    """Yield the checks of a part; a part that cannot even list them is one failed check."""
    try:
        yield from importlib.import_module(f".{part}", __package__).cases(context)
    except Exception as error:
        broken = error
        yield Check(f"{part}: list of checks", lambda: {"ok": False, "exception": repr(broken)})


def record(check: Check, part: str, commit: str, raw: Path | None) -> dict:
    """Run one check and append what came out, an exception included."""
    torch.manual_seed(time.time_ns() % 2**31)
    seed = torch.initial_seed()
    start = time.monotonic()
    try:
        outcome = check.run()
    except Exception as error:
        last = traceback.format_exc(limit=-3)
        outcome = {"ok": False, "exception": f"{type(error).__name__}: {error}"[:500], "traceback": last}
    seconds = round(time.monotonic() - start, 3)
    result = {"name": check.name, "part": part, "commit": commit, "seed": seed, "seconds": seconds, **outcome}
    if raw:
        with open(raw, "a") as file:
            file.write(json.dumps(result) + "\n")
    return result


def line(result: dict) -> str:
    """Return one line for the terminal."""
    hidden = ("name", "part", "ok", "commit", "seed", "traceback")
    shown = ", ".join(f"{key} {_short(value)}" for key, value in result.items() if key not in hidden)
    return f"{'ok   ' if result['ok'] else 'WRONG'} {result['name']}  {shown}"


def _short(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(_short, value)) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
