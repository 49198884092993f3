"""Interleaved timings."""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch

from . import race
from .choice import Times
from .effort import FULL, Effort

LOOK = 2  # rounds after which the clearly beaten leave
STEP = 10  # rounds between two looks at who leads
SAMPLE_S = 2e-4  # a call shorter than this is repeated within one sample
SHORTEST_S = 1e-7  # what a clock says of less than it can see
MOST_REPEATS = 1000  # calls in one graph
WARM_S = 4e-3  # untimed calls in front of a sample: time to read what a cache holds

Call = Callable[[], object]
Sample = Callable[[], Callable[[], float]]  # runs; what it returns waits for the device and gives the seconds per call


@dataclass(frozen=True)
class Clock:
    """The clock of a device.

    Attributes:
        timed: (run, calls) -> runs; what it returns waits for the device and gives the seconds per call.
        capture: call -> the replay of a CUDA graph of it; None: calls are timed as they are.
    """

    timed: Callable[[Call, int], Callable[[], float]]
    capture: Callable[[Call], Call] | None = None


def clock_of(device: torch.device, cuda_graph: bool = False) -> Clock:
    """Return events on a GPU, and the time of this thread or of the wall on a CPU."""
    return Clock(_on_gpu if device.type == "cuda" else _on_cpu, capture if cuda_graph else None)


def time_in_turns(
    candidates: dict[str, Call],
    dense: tuple[str, ...],
    device: torch.device,
    seconds: float,
    cuda_graph: bool = False,
    clock: Clock | None = None,
    effort: Effort = FULL,
) -> Times:
    """Time the candidates in turn.

    The sparse ones get a few rounds, out of which those that are clearly beaten leave earlier. The dense ones and the
    fastest sparse ones then get some, more of them while it is not clear who is the fastest, and still more, for up to
    ``seconds``, while their ratios have not settled.

    Args:
        candidates: by name.
        dense: names of those that are dense.
        device: that they run on.
        seconds: for more rounds.
        cuda_graph: time replays of CUDA graphs, which leave out what a launch costs the host.
        clock: to time with; default: that of the device.
        effort: how many rounds these are.

    Returns:
        candidate -> seconds per call of each round.
    """
    clock = clock or clock_of(device, cuda_graph)
    samples = {name: sampling(call, clock) for name, call in candidates.items()}
    sparse = _fastest({name: sample for name, sample in samples.items() if name not in dense}, effort)
    final = {name: sample for name, sample in samples.items() if name in dense or name in sparse}
    times = _rounds(final, effort.clear)
    while race.rounds(times) < effort.pairs and not race.decided(times, dense):
        _extend(times, final, STEP)
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline and not (race.settled(times) or effort.enough(race.decided(times, dense))):
        _extend(times, final, STEP)
    return times


def _fastest(samples: dict[str, Sample], effort: Effort) -> list[str]:
    """Return the names of the finalists, after a look at all that leaves out who is beaten already."""
    look = min(LOOK, effort.trial)
    times = _rounds(samples, look)
    near = race.in_reach(times, effort.finalists)
    if len(near) > effort.finalists:
        times = {name: times[name] for name in near}
        _extend(times, samples, effort.trial - look)
    return sorted(near, key=lambda name: median(times[name]))[: effort.finalists]


def capture(run: Call) -> Call:
    """Return the replay of a CUDA graph of ``run``, which has run before: tuning a kernel cannot be captured.

    Raises:
        RuntimeError: it waits for the device, or does what else a graph cannot hold.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _extend(times: Times, samples: dict[str, Sample], count: int) -> None:
    """Append rounds of those that there are times of."""
    for name, more in _rounds({name: samples[name] for name in times}, count).items():
        times[name] += more


def _rounds(samples: dict[str, Sample], count: int) -> Times:
    both = list(samples.items()), list(samples.items())[::-1]  # what runs before leaves its data in the cache
    rows = [{name: sample() for name, sample in both[i % 2]} for i in range(count)]
    return {name: [row[name]() for row in rows] for name in samples}


def sampling(call: Call, clock: Clock) -> Sample:
    """Return what takes samples of a call as it is when it runs again and again.

    Other candidates have filled the cache: ``WARM_S`` of untimed calls put back what the call finds there when it runs
    alone; none where one call takes more than twice that. A sample repeats the call as often as makes it long enough
    to time.
    """
    call()  # packs weights, tunes kernels
    run, repeats, seconds = _graph(call, clock) if clock.capture else _loop(call, clock)
    warm = round(WARM_S / seconds)

    def sample():
        _repeat(run, warm)
        return clock.timed(run, repeats)

    return sample


def _loop(call: Call, clock: Clock) -> tuple[Call, int, float]:
    """Return what runs the call as often as a sample wants, how often that is, and the seconds that it takes."""
    once = max(clock.timed(call, 1)(), SHORTEST_S)
    repeats = max(1, round(SAMPLE_S / once))
    return partial(_repeat, call, repeats), repeats, once * repeats


def _graph(call: Call, clock: Clock) -> tuple[Call, int, float]:
    """Return the same of replays of a graph.

    How often follows from replays alone: what a call costs the host is not in a graph. A graph costs a launch however
    short it is, so that of one call says too much of a short call: the graph grows until that hardly counts.
    """
    repeats = 1
    while True:
        replay = clock.capture(partial(_repeat, call, repeats))
        replay()  # the first brings the graph to the device
        seconds = max(clock.timed(replay, 1)(), SHORTEST_S)
        if seconds >= SAMPLE_S / 2 or repeats >= MOST_REPEATS:
            return replay, repeats, seconds
        repeats = min(MOST_REPEATS, max(repeats + 1, round(repeats * SAMPLE_S / seconds)))


def _repeat(call: Call, times: int) -> None:
    for _ in range(times):
        call()


def _on_gpu(run: Call, calls: int) -> Callable[[], float]:
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()

    def elapsed() -> float:
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls

    return elapsed


def _on_cpu(run: Call, calls: int) -> Callable[[], float]:
    # the time of this thread does not count what other processes take, but misses what other threads do
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    run()
    seconds = max((clock() - begin) / calls, 1e-9)
    return lambda: seconds


def device_name(device: torch.device) -> str:
    """Name what timings of a device are valid for: its model, and on a CPU the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    threads = torch.get_num_threads()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' if threads > 1 else ''}"
