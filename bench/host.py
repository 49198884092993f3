"""The cost of a call on the host of a GPU, counted without one: ``python -m bench host``

Launches, Python calls (what ``sys.setprofile`` sees: Python functions and those in C that they call) and kernels that
torch launches are the same on every machine and in every run. Microseconds are of this machine and of a launch that
does nothing: they only compare with those of ``F.linear`` in the same process, which multiplies on the CPU.
"""

import csv
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from . import claimed, rows
from .host_cases import cases
from .host_layers import HostCase
from .places import DOCS

TABLE = rows.RESULTS / "host.csv"
PAGE = DOCS / "host.md"
WARM = 3  # calls before one is counted: what is decided once has been
ROUNDS = 30
HERE = claimed.__file__
EMPTY = re.compile(r"aten::(new_)?(empty|empty_like|empty_strided|detach|alias|lift_fresh|_local_scalar_dense)$")

INTRODUCTION = """# What a call costs the host

Counted without a GPU, in the calls that a GPU gets (`bench/host.py`). *Launches* are Triton's, *torch* are kernels that
torch launches, *calls* are Python calls, those to functions in C included. The last column is the time on a CPU where
launches do nothing, as a multiple of that of `F.linear`, which multiplies there: a hint only.

"""


@dataclass(frozen=True, kw_only=True)
class HostRow(rows.Made):
    """The counts of one call.

    Attributes:
        name, pass_: what was called; ``fwd`` without gradients or ``fwd+bwd``.
        launches: of Triton.
        torch_kernels: torch ops that are no views and allocate more than memory: each a launch or more on a GPU.
        torch_ops: all ops that reach torch's dispatcher below autograd.
        calls: Python calls.
        layers: how many layers the call serves.
        us, dense_us: microseconds, median, and those of ``F.linear`` and the same pass in the same process.
    """

    name: str
    pass_: str
    launches: int
    torch_kernels: int
    torch_ops: int
    calls: int
    layers: int
    us: float
    dense_us: float


class Ops(TorchDispatchMode):
    """Writes down the ops that torch dispatches, those inside of our own too."""

    def __init__(self):
        super().__init__()
        self.seen: list[torch._ops.OpOverload] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "smart_kernels":
            with self:
                return func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args, **(kwargs or {}))
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def counted(call: Callable[[], object]) -> int:
    """Python calls of one call, without what stands for the driver but for its own first function."""
    count = 0

    def see(frame, event, arg):
        nonlocal count
        if event == "call":
            inside = frame.f_code.co_filename == HERE and frame.f_back.f_code.co_filename == HERE
            count += not inside
        elif event == "c_call":
            count += frame.f_code.co_filename != HERE

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        call()
    finally:
        sys.setprofile(before)
    return count - 2  # the call itself and setprofile


def is_kernel(op: torch._ops.OpOverload) -> bool:
    """Whether a GPU would have something to do."""
    view = any(arg.alias_info is not None and not arg.alias_info.is_write for arg in op._schema.arguments)
    return not view and not EMPTY.match(op._schema.name)


def step(call: Callable[[], torch.Tensor], wanted: list[torch.Tensor]) -> Callable[[], object]:
    """Forward and backward."""
    dy = torch.ones_like(call())
    return lambda: torch.autograd.grad(call(), wanted, dy)


def median_us(call: Callable[[], object]) -> float:
    """Of ``ROUNDS`` calls."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def measure(pattern: str = "", target: str = "sm_90") -> Iterator[HostRow]:
    """A row for each case and pass whose name contains the expression."""
    torch.manual_seed(0)
    env = {name: rows.environment("cpu")[name] for name in ("torch", "triton", "python", "commit", "date", "command")}
    dense = {}
    with claimed.claimed(target) as driver:
        for case in cases():
            for pass_ in case.passes:
                if case.name != "F.linear" and not re.search(pattern, f"{case.name} {pass_}"):
                    continue
                row = _row(case, pass_, driver, dense, env)
                if re.search(pattern, f"{case.name} {pass_}"):
                    yield row


def _row(case: HostCase, pass_: str, driver: claimed.CountingDriver, dense: dict[str, float], env: dict) -> HostRow:
    call, wanted = case.make()
    run = step(call, wanted) if pass_ == "fwd+bwd" else torch.no_grad()(call) if case.layers == 1 else call
    for _ in range(WARM):
        run()
    driver.launches.clear()
    calls = counted(run)
    launches = len(driver.launches)
    with Ops() as ops:
        run()
    us = median_us(run)
    us_dense = dense.setdefault(pass_, us)
    kernels = sum(map(is_kernel, ops.seen))
    found = {"launches": launches, "torch_kernels": kernels, "torch_ops": len(ops.seen), "calls": calls}
    times = {"us": round(us, 1), "dense_us": round(us_dense, 1)}
    return HostRow(name=case.name, pass_=pass_, **found, layers=case.layers, **times, **env)


def line(row: HostRow) -> str:
    """For a person to read."""
    counts = f"{row.launches:4} launches {row.torch_kernels:4} of torch {row.calls:6} calls"
    return f"{row.name:40} {row.pass_:8} {counts} {row.us / row.dense_us:7.1f} x F.linear"


def write(found: list[HostRow], path: Path) -> None:
    """All rows, in place of what was there."""
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in fields(HostRow)], lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(row) for row in found)


def page(found: list[HostRow]) -> str:
    """docs/host.md: what the rows say."""
    head = found[0]
    lines = [INTRODUCTION]
    lines += [f"torch {head.torch}, triton {head.triton}, Python {head.python}, {head.commit}, {head.date}: "]
    lines += [f"`{head.command}`\n\n| call | pass | launches | torch | calls | time |\n|---|---|---|---|---|---|\n"]
    for row in found:
        counts = f"{row.launches} | {row.torch_kernels} | {row.calls} | {row.us / row.dense_us:.1f}"
        lines.append(f"| {row.name} | {row.pass_} | {counts} |\n")
    return "".join(lines)


def main(args) -> int:
    """Count, print, and keep the rows of every case; how many there were."""
    found = []
    for row in measure(args.filter):
        found.append(row)
        print(line(row), flush=True)
    whole = not args.filter and not args.dry_run  # the committed table holds every case
    if found and (args.out or whole):
        write(found, args.out or TABLE)
    if found and whole and not args.out:
        PAGE.write_text(page(found))
    return len(found)
