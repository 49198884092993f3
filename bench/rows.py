"""A Row is one measurement with everything needed to judge it; rows are stored as JSON lines, one file per device."""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
import triton

import smart_kernels

from .places import IS_CHECKOUT, RESULTS

PLACES = ("--out", "--cache")  # options that say where on a machine


@dataclass(frozen=True, kw_only=True)
class Made:
    """With what and by which command something was counted or measured; see ``environment``."""

    torch: str
    triton: str
    python: str
    commit: str
    date: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Measured(Made):
    """Where it was measured, besides.

    Attributes:
        load: of the machine then; None where it was not recorded.
    """

    device: str
    threads: int
    load: float | None


@dataclass(frozen=True, kw_only=True)
class Row(Measured):
    """One line of results.

    Times in ms; ``of_floor`` = floor / p50, with the floor of ``bench.floor``; ``speedup`` = p50 of the best baseline /
    p50; ``ratio`` = median over the rounds of time / time of the best baseline, ``spread`` = interquartile range of
    those over it. ``timer`` is "rounds" (CPU, interleaved), "events" (GPU, called one by one), "graph" (GPU, replayed
    from a CUDA graph: kernels alone) or "host" (how long a call keeps the host, without waiting for the GPU).
    ``l2_bytes`` is 0 where it is not known, ``l2_gbps`` None where the L2 cache was not measured; ``runs`` is 0 where
    they were not recorded.
    """

    op: str
    provider: str
    shape: str
    M: int
    N: int
    K: int
    block: str
    sparsity: float
    dtype: str
    pass_: str
    timer: str
    runs: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    tflops: float
    gbps: float
    flops: float
    bytes: float
    peak_tflops: float
    bandwidth_gbps: float
    floor_ms: float
    of_floor: float
    speedup: float | None
    choice: str = ""
    ratio: float | None = None
    spread: float | None = None
    l2_bytes: float = 0.0
    l2_gbps: float | None = None


def environment(device: str) -> dict:
    """Return where and with what a row is measured."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "commit": commit(),
        "date": date.today().isoformat(),
        "command": command("bench", sys.argv[1:]),
    }


def command(module: str, arguments: Sequence[str]) -> str:
    """Return how a module was called, without the places of a machine that it read or wrote."""
    kept = []
    after = False  # an option whose value is a place
    for argument in arguments:
        option, *value = argument.split("=", 1)
        if not after and option not in PLACES:
            kept.append(argument)
        after = option in PLACES and not value
    return shlex.join(["python", "-m", module, *kept])


def made_on(rows: Iterable["Measured"]) -> str:
    """Return where, with what and when rows were made, in a line."""
    rows = list(rows)
    devices = ", ".join(sorted({f"{row.device}, {row.threads} thread{'s' * (row.threads > 1)}" for row in rows}))
    versions = ", ".join(sorted({f"torch {row.torch}, Python {row.python}" for row in rows}))
    commits = ", ".join(sorted({row.commit for row in rows}))
    days = [row.date for row in rows]
    return f"{len(rows)} runs on {devices}; {versions}; commits {commits}; {min(days)} to {max(days)}"


def device_name(device: str) -> str:
    """Return the GPU's name, or the processor's."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def commit() -> str:
    """Return the short hash of the measured tree, marked when files but results differ; else the installed version."""
    if not IS_CHECKOUT:
        return smart_kernels.__version__
    results = f":(exclude){RESULTS.name}"
    try:
        name = _git("describe", "--always", "--exclude", "*")
        return name + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no", ":/", results) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(RESULTS.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def default_path(device: str) -> Path:
    """Return ``bench/results/<device>.jsonl``."""
    return RESULTS / f"{re.sub('[^a-z0-9]+', '-', device_name(device).lower()).strip('-')}.jsonl"


def append(rows: Iterable[Row], path: Path) -> None:
    """Add rows to a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)


def read(path: Path) -> list[Row]:
    """Return the rows of a file of JSON lines; of several measurements of a case the last counts."""
    rows = (Row(**json.loads(line)) for line in path.read_text().splitlines())
    last = {(r.op, r.provider, r.shape, r.block, r.sparsity, r.dtype, r.pass_, r.timer, r.threads): r for r in rows}
    return list(last.values())
