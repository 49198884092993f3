"""The machine-code census as pages: a line per GPU on the front, a line per kernel and GPU behind it."""

import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ..codegen.table import faults

INTEGERS = ("registers", "spill", "spill_in_loop", "shared", "loop", "budget", "tensor_core")
INTEGERS += ("wide_loads", "narrow_loads", "asynchronous")
SHOWN = ("registers", "spill", "shared", "loop", "per_kilomac")


def read(path: Path) -> list[dict]:
    """Return the rows of the committed table, numbers and flags as such."""
    with open(path, newline="") as file:
        return [typed(row) for row in csv.DictReader(file)]


def typed(row: dict) -> dict:
    """Return a row of the CSV with its numbers and flags as such; an empty number is None."""
    values = {name: int(row[name]) if row.get(name) else None for name in INTEGERS}
    return {**row, **values, "serialised": row["serialised"] == "True"}


def brief(rows: list[dict]) -> Iterator[str]:
    """Yield the part of the front page: how many kernels per target, and how many are wrong."""
    yield "## Machine code\n"
    yield from _how(rows)
    yield "Registers, spills and loop lengths: [every kernel](results/codegen.md).\n"
    yield "| target | kernels and configurations | outside the limits |"
    yield "|---|---|---|"
    for target in sorted({r["target"] for r in rows}):
        found = [r for r in rows if r["target"] == target]
        yield f"| {target} | {len(found)} | {sum(bool(faults(r)) for r in found)} |"


def full(rows: list[dict]) -> Iterator[str]:
    """Yield the page with the leanest and the heaviest configuration per kernel and target."""
    yield "# Machine code\n"
    yield "[All results](../results.md)\n"
    yield from _how(rows)
    yield f"{len(rows)} kernels and configurations, {sum(bool(faults(r)) for r in rows)} of them outside the limits.\n"
    yield "| kernel | target | compiled | registers | spilled | shared memory, B | loop instructions | per 1000 MAC |"
    yield "|---|---|---|---|---|---|---|---|"
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for r in rows:
        if r["kernel"]:
            groups[r["kernel"], r["target"]].append(r)
    for (kernel, target), found in sorted(groups.items()):
        ranges = " | ".join(_range([float(r[c]) for r in found if r[c] not in ("", None)]) for c in SHOWN)
        yield f"| {kernel} | {target} | {len(found)} | {ranges} |"


def _how(rows: list[dict]) -> Iterator[str]:
    versions = ", ".join(sorted({r["triton"] for r in rows}))
    yield f"Compiled ahead of time with triton {versions}, no GPU involved: `python -m bench codegen`."


def _range(values: list[float]) -> str:
    if not values:
        return "-"
    low = f"{min(values):g}"
    high = f"{max(values):g}"
    return low if low == high else f"{low} - {high}"
