"""Speed-ups of one device, brought down to what a reader asks: from which sparsity on, and how much at 80 and 90 %.

Every provider is on one side: *dense* is the baseline, *peer* is other people's code, *ours* is this package, and
*extra* is this package with the optional ``cpu-jit``.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from ..peers import MAKERS
from ..rows import Row

BASELINES = ("best dense", "torch-bisection")
PEERS = (*MAKERS, "cusparselt", "mask-then-dense", "mask-then-dense-compiled")
FEW = 64  # rows of x: a launch costs more than the product
TIMERS = ("graph", "rounds", "events")  # the kernels alone come before the call; "host" is no speed of a kernel


@dataclass(frozen=True)
class Line:
    """The best speed-up of one side on one shape and block, by sparsity."""

    shape: str
    block: str
    side: str
    points: dict[float, float]

    def break_even(self) -> float | None:
        """Return the smallest measured sparsity from which on it is never slower than dense; None without one."""
        found = None
        for sparsity, speedup in sorted(self.points.items(), reverse=True):
            if speedup < 1:
                break
            found = sparsity
        return found


def side(r: Row) -> str:
    """Return ``"dense"``, ``"peer"``, ``"extra"`` or ``"ours"``."""
    if r.provider.startswith("dense") or r.provider in BASELINES:
        return "dense"
    if r.provider in PEERS:
        return "peer"
    return "extra" if "jit" in r.provider.split() else "ours"


def block(r: Row) -> str:
    """Return what a mask value covers, in words where its numbers are no block: ``"whole rows"``, ``"2:4"``."""
    if r.op.startswith("semi_structured"):
        return r.block.replace("x", ":")
    if r.op == "conv2d" and ":" not in r.block:
        return f"{r.block}, 1x1 kernel"
    return "whole rows" if r.block == f"1x{r.K}" else r.block


def area(block: str) -> tuple[int, str]:
    """Return a key that sorts blocks by their size; blocks that are none come last."""
    rows, _, cols = re.split("[:,]", block)[0].partition("x")
    return (int(rows) * int(cols) if rows.isdigit() and cols.isdigit() else 2**31), block


def lines(rows: list[Row]) -> list[Line]:
    """Return one line per shape, block and side that is not dense; ``extra`` is the better of both of ours."""
    best: dict[tuple[str, str, str], dict[float, float]] = defaultdict(dict)
    for r in rows:
        if side(r) == "dense" or not r.speedup:
            continue
        for name in ("ours", "extra") if side(r) == "ours" else (side(r),):
            points = best[r.shape, block(r), name]
            points[r.sparsity] = max(r.speedup, points.get(r.sparsity, 0.0))
    found = [Line(*key, points) for key, points in best.items()]
    improved = {(r.shape, block(r)) for r in rows if side(r) == "extra"}
    return [line for line in found if line.side != "extra" or (line.shape, line.block) in improved]


def call(r: Row) -> str:
    """Name what is called, where the shape matters little: operator, pass and whether there are few rows."""
    return f"{r.op}, {r.pass_}" + (", few rows" if r.M <= FEW and r.K else "")


def main_timer(rows: Iterable[Row]) -> str:
    """Return the timer that shows the kernels best: CUDA graphs where they were timed."""
    timers = {r.timer for r in rows}
    return next((timer for timer in TIMERS if timer in timers), "")


@dataclass(frozen=True)
class Answer:
    """One operator and block over all its shapes.

    Attributes:
        break_even: per shape, see :meth:`Line.break_even`.
        forward, step, called, extra: speed-ups over the shapes by sparsity; of the forward pass, of a training step,
            of the forward pass called without a CUDA graph, and of the forward pass with ``cpu-jit``.
        peer: speed-ups of the best of other people's code, forward.
    """

    op: str
    block: str
    break_even: list[float | None]
    forward: dict[float, list[float]]
    step: dict[float, list[float]]
    called: dict[float, list[float]]
    extra: dict[float, list[float]]
    peer: dict[float, list[float]]


def answers(rows: list[Row]) -> list[Answer]:
    """Return the answers for rows of one device, dtype and number of threads, by operator and block."""
    found = []
    for op in dict.fromkeys(r.op for r in rows):
        of_op = [r for r in rows if r.op == op]
        timer = main_timer(of_op)
        forward = lines([r for r in of_op if r.pass_ == "fwd" and r.timer == timer])
        step = lines([r for r in of_op if r.pass_ == "step" and r.timer == timer])
        called = lines([r for r in of_op if r.pass_ == "fwd" and r.timer == "events" and timer == "graph"])
        for name in sorted({line.block for line in forward if line.side == "ours"}, key=area):
            even = [line.break_even() for line in forward if (line.block, line.side) == (name, "ours")]
            speedups = [_by_sparsity(of, name, "ours") for of in (forward, step, called)]
            others = [_by_sparsity(forward, name, other) for other in ("extra", "peer")]
            found.append(Answer(op, name, even, *speedups, *others))
    return found


def _by_sparsity(found: Iterable[Line], block: str, side: str) -> dict[float, list[float]]:
    by_sparsity: dict[float, list[float]] = defaultdict(list)
    for line in found:
        if (line.block, line.side) == (block, side):
            for sparsity, speedup in line.points.items():
                by_sparsity[sparsity].append(speedup)
    return dict(by_sparsity)


def span(values: list[float]) -> str:
    """Return ``"2.55 (1.53 - 3.17)"``, the median and the range of speed-ups; ``"-"`` of none."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{median(values):.2f} ({min(values):.2f} - {max(values):.2f})"


def from_sparsity(values: list[float | None]) -> str:
    """Return ``"50 %"``, ``"50 - 90 %"``, ``"80 % - never"``: the best shape, then the worst."""
    known = [f"{100 * value:.0f}" for value in sorted(value for value in values if value is not None)]
    if not known:
        return "never"
    if len(known) < len(values):
        return f"{known[0]} % - never"
    return f"{known[0]} %" if known[0] == known[-1] else f"{known[0]} - {known[-1]} %"
