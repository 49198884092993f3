"""The timers of a GPU: replays of CUDA graphs, calls one by one, and what a call costs the host."""

import time as clock
from collections.abc import Callable

import torch

from .timing import Timing, summarise

TIMERS = ("events", "graph")  # of ``python -m bench ops``
REPLAYED_MS = 40  # of replays, and of calls, behind a time
CALLS = 50  # in one sample of the host's time: the queue of the device must not fill up
SAMPLES = 5


def time(function: Callable, timer: str) -> Timing:
    """Time one function; see ``Row`` for the timers.

    Raises:
        RuntimeError: the function cannot be captured in a CUDA graph.
    """
    return {"graph": replayed, "events": called, "host": host}[timer](function)


def replayed(function: Callable) -> Timing:
    """Time the replay of a CUDA graph: the kernels alone, and what L2 holds stays there."""
    from triton.testing import do_bench_cudagraph

    function()  # packs, tunes and compiles, which a graph cannot hold
    times = do_bench_cudagraph(function, rep=REPLAYED_MS, return_mode="all")
    return summarise([ms / 1e3 for ms in times], "graph")


def called(function: Callable) -> Timing:
    """Time calls one by one with CUDA events, the L2 cache flushed between them."""
    from triton.testing import do_bench

    times = do_bench(function, warmup=REPLAYED_MS // 4, rep=REPLAYED_MS, return_mode="all")
    return summarise([ms / 1e3 for ms in times], "events")


def host(function: Callable) -> Timing:
    """Time how long a call keeps the host: the device is not waited for, except between samples."""
    function()
    samples = []
    for _ in range(SAMPLES):
        torch.cuda.synchronize()
        begin = clock.perf_counter()
        for _ in range(CALLS):
            function()
        samples.append((clock.perf_counter() - begin) / CALLS)
    torch.cuda.synchronize()
    return summarise(samples, "host")
