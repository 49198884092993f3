"""How long things take, and how short they could: measured ceilings, interleaved rounds, percentiles."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from smart_kernels.convert.measure.timing import clock_of, sampling
from smart_kernels.formats.processor import onednn_takes

ROUNDS = 30  # fewest rounds behind a speed claim
SPREAD = 0.05  # (p80 - p20) / p50 above which more rounds follow


@dataclass(frozen=True)
class Ceilings:
    """The best that the device reached here: FLOP/s of a large dense product and bytes/s of a large copy."""

    peak: float
    bandwidth: float


@dataclass(frozen=True)
class Timing:
    """Times of one function in milliseconds; ``timer`` says how they were taken: "rounds", "events" or "graph"."""

    best_ms: float
    p20_ms: float
    p50_ms: float
    p80_ms: float
    runs: int
    timer: str
    samples: tuple[float, ...] = ()  # seconds of each round, where the rounds of all functions are interleaved


def floor_ms(flops: float, bytes: float, ceilings: Ceilings) -> float:
    """Return the time that no implementation can beat: max(flops / peak, bytes / bandwidth)."""
    return 1e3 * max(flops / ceilings.peak, bytes / ceilings.bandwidth)


def ceilings(device: str, dtype: torch.dtype) -> Ceilings:
    """Measure the ceilings, with random data (zeros draw less power and run faster)."""
    n = 8192 if device == "cuda" else 1024
    size = 2**30 if device == "cuda" else 2**27
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    multiply = [lambda: F.linear(a, b)]
    if onednn_takes(b):
        packed = torch.ops.mkldnn._reorder_linear_weight(b, n)
        multiply.append(lambda: torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], ""))
    source = torch.randint(0, 255, (size,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    *products, copy = time_each([*multiply, lambda: target.copy_(source)], device)
    best = min(t.best_ms for t in products)  # a ceiling is the best the device did, not its median
    return Ceilings(2e3 * n**3 / best, 2e3 * size / copy.best_ms)


def time_each(
    functions: Sequence[Callable], device: str, graph: bool = False, seconds: float = 4.0, least: int = 5
) -> list[Timing]:
    """Time functions that compute the same thing. On a GPU ``graph`` leaves the launch overhead out."""
    if device == "cpu":
        return interleaved(functions, seconds, least)
    return [on_gpu(function, graph) for function in functions]


def on_gpu(function: Callable, graph: bool = False) -> Timing:
    """Time one function with CUDA events; the L2 cache is flushed between calls, except inside a CUDA graph."""
    from triton.testing import do_bench, do_bench_cudagraph

    if graph:
        times = do_bench_cudagraph(function, rep=100, return_mode="all")
    else:
        times = do_bench(function, warmup=50, rep=200, return_mode="all")
    return summarise([t / 1e3 for t in times], "graph" if graph else "events")


def interleaved(functions: Sequence[Callable], seconds: float, least: int = 5) -> list[Timing]:
    """Time in rounds over all functions, so that noise hits all of them; more rounds while the spread is large.

    At least ``least`` rounds, whatever time they take. Each sample is that of a function which has the cache for
    itself, as ``compress_`` measures.
    """
    clock = clock_of(torch.device("cpu"))
    take = [sampling(function, clock) for function in functions]
    samples: list[list[float]] = [[] for _ in functions]
    deadline = time.perf_counter() + seconds
    while True:
        each = list(zip(take, samples, strict=True))
        for sample, times in each if len(samples[0]) % 2 else each[::-1]:
            times.append(sample()())
        rounds = len(samples[0])
        late = time.perf_counter() > deadline
        if rounds >= least and (late or (rounds % ROUNDS == 0 and max(map(spread, samples)) <= SPREAD)):
            return [summarise(times, "rounds") for times in samples]


def percentiles(times: Sequence[float]) -> tuple[float, float, float]:
    """Return p20, p50 and p80; of a single time, that time."""
    if len(times) == 1:
        return (times[0],) * 3
    p20, _, _, p80 = statistics.quantiles(times, n=5, method="inclusive")
    return p20, statistics.median(times), p80


def spread(times: Sequence[float]) -> float:
    """Return (p80 - p20) / p50."""
    p20, p50, p80 = percentiles(times)
    return (p80 - p20) / p50


def summarise(seconds: Sequence[float], timer: str) -> Timing:
    """Return the percentiles of samples in seconds, in milliseconds."""
    times = (round(1e3 * t, 6) for t in (min(seconds), *percentiles(seconds)))
    return Timing(*times, runs=len(seconds), timer=timer, samples=tuple(seconds) if timer == "rounds" else ())
