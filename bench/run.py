"""From cases to rows: check against float64, time what is right, refuse what is not."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby

import torch

from smart_kernels.convert.measure.choice import pair_ratio

from . import floor, on_gpu, timing
from .case import NAMES, Case, Problem, wrong
from .floor import Limits
from .rows import Row, environment
from .timing import Timing


def dry(cases: Iterable[Case]) -> tuple[int, list[str]]:
    """Check every case once and time nothing. Returns how many ran and what was wrong."""
    reports = [report(case) for case in cases]
    return len(reports), [r for r in reports if r]


def report(case: Case) -> str | None:
    """Say what is wrong with a case, an exception included; None if nothing is."""
    try:
        reason = wrong(case)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    return f"{case}: {reason}" if reason else None


@cache
def limits(device: str, dtype: torch.dtype) -> Limits:
    """Measure the limits of a device, once in a process."""
    return floor.measured(device, dtype)


def measure(
    cases: Iterable[Case],
    device: str,
    seconds: float,
    refused: list[str],
    least: int = 5,
    timers: Sequence[str] = on_gpu.TIMERS,
    known: Mapping[torch.dtype, Limits] | None = None,
) -> Iterator[Row]:
    """Yield the rows of all cases that are right; the others go to ``refused``.

    Args:
        cases: those of one problem one after the other.
        device: "cpu" or "cuda".
        seconds: for more rounds, on the CPU.
        refused: takes what was wrong, and what could not be timed.
        least: fewest rounds on the CPU.
        timers: on a GPU, see ``Row``.
        known: limits that need not be measured again.
    """
    env = environment(device)
    for problem, group in groupby(cases, key=lambda case: case.problem):
        right = list(_right(group, refused))
        if not right:
            continue
        held_to = (known or {}).get(problem.dtype) or limits(device, problem.dtype)
        if device == "cpu":
            times = timing.time_each([case.run for case in right], device, seconds=seconds, least=least)
            yield from rows(right, times, held_to, env)
            continue
        for timer in timers:
            pairs = list(timed(right, timer, refused))
            yield from rows(*zip(*pairs, strict=True), held_to, env) if pairs else ()


def _right(cases: Iterable[Case], refused: list[str]) -> Iterator[Case]:
    for case in cases:
        if reason := report(case):
            refused.append(reason)
        else:
            yield case


def timed(cases: Iterable[Case], timer: str, refused: list[str]) -> Iterator[tuple[Case, Timing]]:
    """Yield the cases that a timer can time on a GPU."""
    for case in cases:
        if timer == "graph" and case.problem.pass_ == "bwd":
            continue  # its forward lies outside of the graph
        try:
            yield case, on_gpu.time(case.run, timer)
        except Exception as error:  # what raises must not end its group
            refused.append(f"{case}, {timer}: {type(error).__name__}: {error}")


def rows(cases: Sequence[Case], times: Sequence[Timing], limits: Limits, env: dict) -> Iterator[Row]:
    """Yield one row per case of a group; speedups are against its fastest baseline."""
    baselines = [t for c, t in zip(cases, times, strict=True) if c.baseline]
    best = min(baselines, key=lambda t: t.p50_ms, default=None)
    for c, t in zip(cases, times, strict=True):
        ratio, spread = pair_ratio(t.samples, best.samples) if best and t.samples else (None, None)
        yield Row(
            **_problem(c.problem),
            **{"provider": c.provider, "choice": c.choice},
            **{"timer": t.timer, "runs": t.runs, "p20_ms": t.p20_ms, "p50_ms": t.p50_ms, "p80_ms": t.p80_ms},
            **needs(c, t.p50_ms, limits),
            speedup=round(best.p50_ms / t.p50_ms, 3) if best else None,
            ratio=ratio and round(ratio, 4),
            spread=spread and round(spread, 4),
            **env,
        )


def needs(c: Case, p50_ms: float, limits: Limits) -> dict:
    """Return the columns that say what a case needs and how near to the limits it came."""
    floor_ms = max(floor.terms(c.flops, c.bytes, c.l2_bytes, limits).values())
    return {
        **{"flops": c.flops, "bytes": c.bytes, "l2_bytes": c.l2_bytes},
        "tflops": round(c.flops / p50_ms / 1e9, 4),
        "gbps": round(c.bytes / p50_ms / 1e6, 2),
        "peak_tflops": round(limits.peak / 1e12, 4),
        "bandwidth_gbps": round(limits.bandwidth / 1e9, 2),
        "l2_gbps": limits.l2 and round(limits.l2 / 1e9, 2),
        "floor_ms": round(floor_ms, 6),
        "of_floor": round(floor_ms / p50_ms, 4),
    }


def _problem(p: Problem) -> dict:
    """Return the columns that say what was computed."""
    shape = {"shape": p.shape.name, "M": p.shape.M, "N": p.shape.N, "K": p.shape.K}
    return {"op": p.op, "block": p.block, "sparsity": p.sparsity, "dtype": NAMES[p.dtype], "pass_": p.pass_, **shape}


def table(measured: Iterable[Row]) -> Iterator[str]:
    """Yield lines for the terminal, as rows come in."""
    head = f"{'op / provider':42} {'shape':20} {'block':8} {'zeros':>5} {'pass':5} {'p50 ms':>10} {'TFLOP/s':>8}"
    yield f"{head} {'GB/s':>8} {'of floor':>8} {'binds':7} {'speedup':>7}"
    for r in measured:
        speedup = f"{r.speedup:7.2f}" if r.speedup else "      -"
        name = f"{r.op} / {r.provider}"
        yield (
            f"{name:42} {r.shape:20} {r.block:8} {r.sparsity:5.2f} {r.pass_:5} {r.p50_ms:10.4f} {r.tflops:8.3f}"
            f" {r.gbps:8.1f} {r.of_floor:8.2f} {floor.binds(r):7} {speedup}"
        )
