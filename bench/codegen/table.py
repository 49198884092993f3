"""The census itself: compile cases for targets in processes of their own, check the rows, write the table."""

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import triton

from ..places import CODE, RESULTS
from . import budget, resident, sparse, traffic

TABLE = RESULTS / "codegen.csv"
TARGETS = {"sm_80": 166912, "sm_90": 232448, "sm_120": 101376, "gfx942": 65536}  # shared memory per program, bytes
LIMITS = TARGETS | sparse.TARGETS
COLUMNS = (
    *("case", "target", "triton", "kernel", "config", "registers", "spill", "spill_in_loop", "shared"),
    *("serialised", "steps", "loop", "budget", "tensor_core", "instruction", "wide_loads", "narrow_loads"),
    *("asynchronous", "per_kilomac", "histogram", "error"),
)


def case_names() -> list[str]:
    """Return the names of every case of the census."""
    from .cases import CASES

    return list(CASES)


def census(target: str, cases: Sequence[str]) -> list[dict]:
    """Return one row per compiled kernel and configuration; a failure is a row with ``error``."""
    cases = [case for case in cases if _applies(case, target)]
    rows: list[dict] = []
    while cases:
        lines, log = _compile(target, cases)
        rows += [line for line in lines if "begin" not in line]
        begun = [line["case"] for line in lines if "begin" in line]
        if log is None:
            break
        died = begun[-1] if begun else cases[-1]  # without a first case it cannot even start
        rows.append({"case": died, "kernel": "", "error": f"the compiler died: {log[-300:]}"})
        cases = cases[cases.index(died) + 1 :]
    rows = [{"target": target, "triton": triton.__version__, **row} for row in rows]
    return [
        {**row, "budget": sparse.budget(row) if row["case"] in sparse.CASES else budget.budget(row)} for row in rows
    ]


def _applies(case: str, target: str) -> bool:
    """Whether a target has what a case needs."""
    fits = case in sparse.CASES or "fp8" not in case or target in ("sm_90", "sm_120")
    return fits and sparse.applies(case, target, TARGETS)


def _compile(target: str, cases: list[str]) -> tuple[list[dict], str | None]:
    """Return rows, and what was written to stderr if the process died."""
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "rows")
        out.touch()
        command = [sys.executable, "-m", f"{__package__}.compile", target, str(out), *cases]
        done = subprocess.run(command, env=env, cwd=CODE, capture_output=True, text=True)
        lines = [json.loads(line) for line in out.read_text().splitlines()]
    return lines, done.stderr if done.returncode else None


def faults(row: dict) -> list[str]:
    """Say what is wrong with one row; nothing when the machine code is as it must be."""
    if row.get("error"):
        return [row["error"]]
    found = []
    if row["spill"]:
        found.append(f"{row['spill']} bytes spilled, {row.get('spill_in_loop', 0)} accesses in a loop")
    if row["serialised"]:
        found.append("wgmma serialised (C7515)")
    if row["shared"] > LIMITS[row["target"]]:
        found.append(f"{row['shared']} B of shared memory, limit {LIMITS[row['target']]}")
    if row["case"] in sparse.CASES:
        return found + sparse.faults(row)
    return found + resident.faults(row) + (_matrix_faults(row) if budget.kind(row) else [])


def _matrix_faults(row: dict) -> list[str]:
    if budget.exact(row):
        return []
    found = []
    if not row["tensor_core"]:
        found.append("no tensor-core instruction in the matrix loop")
    if (
        not row["wide_loads"]
        and not budget.narrow(row)
        and budget.copies(row, threads_per_warp=32 if row["target"][:2] == "sm" else 64) >= 2
    ):
        found.append("no 16-byte load in the matrix loop")
    if row.get("asynchronous") is not None and row["asynchronous"] < row["wide_loads"]:
        slow = row["wide_loads"] - row["asynchronous"]
        found.append(f"{slow} of {row['wide_loads']} 16-byte loads go through registers (LDG, STS), not pipelined")
    if row["budget"] is not None and row["loop"] > row["budget"]:
        found.append(f"{row['loop']} instructions in the matrix loop, budget {row['budget']}")
    return found


def write(rows: list[dict], path: Path = TABLE) -> None:
    """Write the rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def show(rows: list[dict]) -> None:
    """Print one line per row, and what is wrong with it."""
    for row in rows:
        read = sparse.traffic if row["case"] in sparse.CASES else traffic.bytes_per_kflop
        bytes_ = None if row.get("error") else read(row)
        shown = ("target", "kernel", "config", "registers", "spill", "shared", "loop", "budget", "wide_loads")
        from_l2 = f"  {bytes_:.1f} B of L2 per kFLOP" if bytes_ else ""
        line = "  ".join(str(row.get(column, "-")) for column in shown)
        print(line + from_l2, *(f"\n    WRONG: {f}" for f in faults(row)))
