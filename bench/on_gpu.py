"""The timers of a GPU: replays of CUDA graphs, calls one by one, and what a call costs the host."""

import time as clock
from collections.abc import Callable, Mapping

import torch

from smart_kernels.convert.measure.timing import capture

from .timing import Timing, summarise

TIMERS = ("events", "graph")  # of ``python -m bench ops``
SAMPLES = 20  # replays behind a time
SAMPLE_MS = 2.0  # a graph holds as many calls as make it this long,
REPEATS = 100  # but not more: each has to be captured
CALLED_MS = 40
CALLS = 50  # in one sample of the host's time: the queue of the device must not fill up
HOST_SAMPLES = 5


def time(function: Callable, timer: str) -> Timing:
    """Time one function; see ``Row`` for the timers.

    Raises:
        RuntimeError: the function cannot be captured in a CUDA graph.
    """
    return {"graph": replayed, "events": called, "host": host}[timer](function)


def each(functions: Mapping[str, Callable], timer: str) -> dict[str, float | str]:
    """Return the milliseconds of functions by name, or what one of them raised: it must not end its group."""
    found: dict[str, float | str] = {}
    for name, function in functions.items():
        try:
            found[name] = time(function, timer).p50_ms
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"[:200]
    return found


def replayed(function: Callable) -> Timing:
    """Time the replay of a CUDA graph: the kernels alone, and what L2 holds stays there."""
    function()  # packs, tunes and compiles, which a graph cannot hold
    once = capture(function)
    once()
    repeats = min(REPEATS, max(1, round(SAMPLE_MS / max(1e-3, min(_replay_ms(once) for _ in range(3))))))
    replay = capture(lambda: [function() for _ in range(repeats)]) if repeats > 1 else once
    replay()
    return summarise([_replay_ms(replay) / repeats / 1e3 for _ in range(SAMPLES)], "graph")


def _replay_ms(replay: Callable) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def called(function: Callable) -> Timing:
    """Time calls one by one with CUDA events, the L2 cache flushed between them."""
    from triton.testing import do_bench

    times = do_bench(function, warmup=CALLED_MS // 4, rep=CALLED_MS, return_mode="all")
    return summarise([ms / 1e3 for ms in times], "events")


def host(function: Callable) -> Timing:
    """Time how long a call keeps the host: the device is not waited for, except between samples."""
    function()
    samples = []
    for _ in range(HOST_SAMPLES):
        torch.cuda.synchronize()
        begin = clock.perf_counter()
        for _ in range(CALLS):
            function()
        samples.append((clock.perf_counter() - begin) / CALLS)
    torch.cuda.synchronize()
    return summarise(samples, "host")
