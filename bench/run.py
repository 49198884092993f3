"""From cases to rows: check against float64, time what is right, refuse what is not."""

from collections.abc import Iterable, Iterator
from itertools import groupby

import torch

from smart_kernels.convert.measure.choice import pair_ratio

from . import timing
from .case import NAMES, Case, Problem, wrong
from .rows import Row, environment
from .timing import Ceilings, Timing

SMALL_M = 64  # up to here a launch costs as much as the kernel: time it inside a CUDA graph too


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


def measure(cases: Iterable[Case], device: str, seconds: float, refused: list[str], least: int = 5) -> Iterator[Row]:
    """Rows of all cases that are right, of at least ``least`` rounds on the CPU; the others go to ``refused``."""
    env = environment(device)
    ceilings: dict[torch.dtype, Ceilings] = {}
    for _, group in groupby(cases, key=lambda case: case.problem):
        right = []
        for case in group:
            reason = report(case)
            refused.append(reason) if reason else right.append(case)
        if not right:
            continue
        dtype = right[0].problem.dtype
        if dtype not in ceilings:
            ceilings[dtype] = timing.ceilings(device, dtype)
        for graph in (False, True) if device == "cuda" and _graphable(right[0]) else (False,):
            times = timing.time_each([case.run for case in right], device, graph, seconds, least)
            yield from rows(right, times, ceilings[dtype], env)


def _graphable(case: Case) -> bool:
    return case.problem.shape.M <= SMALL_M and case.problem.pass_ == "fwd"


def rows(cases: list[Case], times: list[Timing], ceilings: Ceilings, env: dict) -> Iterator[Row]:
    """Yield one row per case of a group; speedups are against its fastest baseline."""
    baselines = [t for c, t in zip(cases, times, strict=True) if c.baseline]
    best = min(baselines, key=lambda t: t.p50_ms, default=None)
    for c, t in zip(cases, times, strict=True):
        ratio, spread = pair_ratio(t.samples, best.samples) if best and t.samples else (None, None)
        floor = timing.floor_ms(c.flops, c.bytes, ceilings)
        yield Row(
            **_problem(c.problem),
            **{"provider": c.provider, "choice": c.choice, "flops": c.flops, "bytes": c.bytes},
            **{"timer": t.timer, "runs": t.runs, "p20_ms": t.p20_ms, "p50_ms": t.p50_ms, "p80_ms": t.p80_ms},
            tflops=round(c.flops / t.p50_ms / 1e9, 4),
            gbps=round(c.bytes / t.p50_ms / 1e6, 2),
            peak_tflops=round(ceilings.peak / 1e12, 4),
            bandwidth_gbps=round(ceilings.bandwidth / 1e9, 2),
            floor_ms=round(floor, 6),
            of_floor=round(floor / t.p50_ms, 4),
            speedup=round(best.p50_ms / t.p50_ms, 3) if best else None,
            ratio=ratio and round(ratio, 4),
            spread=spread and round(spread, 4),
            **env,
        )


def _problem(p: Problem) -> dict:
    """Return the columns that say what was computed."""
    shape = {"shape": p.shape.name, "M": p.shape.M, "N": p.shape.N, "K": p.shape.K}
    return {"op": p.op, "block": p.block, "sparsity": p.sparsity, "dtype": NAMES[p.dtype], "pass_": p.pass_, **shape}


def table(measured: Iterable[Row]) -> Iterator[str]:
    """Yield lines for the terminal, as rows come in."""
    head = f"{'op / provider':42} {'shape':20} {'block':8} {'zeros':>5} {'pass':5} {'p50 ms':>10} {'TFLOP/s':>8}"
    yield f"{head} {'GB/s':>8} {'of floor':>8} {'speedup':>7}"
    for r in measured:
        speedup = f"{r.speedup:7.2f}" if r.speedup else "      -"
        name = f"{r.op} / {r.provider}"
        yield (
            f"{name:42} {r.shape:20} {r.block:8} {r.sparsity:5.2f} {r.pass_:5} {r.p50_ms:10.4f} {r.tflops:8.3f}"
            f" {r.gbps:8.1f} {r.of_floor:8.2f} {speedup}"
        )
