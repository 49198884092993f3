"""How a backend is chosen: interleaved timings, and a rule that noise cannot talk into a loss."""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles

import torch

PAIRS = 30  # fewest interleaved rounds behind a choice
STEADY = 0.05  # spread below which more rounds are not needed
MARGIN = 0.02  # a smaller win may be none when it is measured again, in other memory
TIE = 0.01  # dense forms closer than this are equal, and the plain layer is the simpler one
SAMPLE_S = 2e-4  # a call shorter than this is repeated within one sample
FINALISTS = 2  # sparse candidates that get the full number of rounds

Times = dict[str, list[float]]
Sample = Callable[[], Callable[[], float]]  # runs; what it returns waits for the device and gives the seconds per call


@dataclass(frozen=True)
class Choice:
    """The outcome of a comparison.

    Attributes:
        name: the winner.
        baseline: the fastest dense candidate.
        ratio: median over the pairs of winner / baseline time.
        spread: interquartile range of those pairs' ratios, as a fraction of their median.
    """

    name: str
    baseline: str
    ratio: float
    spread: float


def choose(times: Times, dense: tuple[str, ...], policy: str = "speed") -> Choice:
    """Pick a winner from interleaved timings.

    A sparse candidate must beat the fastest dense one: have a median pair ratio below 1 by more than its spread. Among
    the dense ones the median alone decides: to stay with the slower one for a spread would break the promise.

    Args:
        times: candidate -> seconds of each round; the first dense name is the plain layer.
        dense: names of the dense candidates, simplest first.
        policy: ``"speed"``, or ``"size"``: the fastest sparse candidate, whether it wins or not.
    """
    present = [name for name in dense if name in times]
    plain, baseline = present[0], min(present, key=lambda name: median(times[name]))
    for name in sorted(times.keys() - set(present), key=lambda name: median(times[name])):
        if policy == "size" or wins(times[name], times[baseline]):
            return Choice(name, baseline, *pair_ratio(times[name], times[baseline]))
    name = baseline if pair_ratio(times[baseline], times[plain])[0] < 1 - TIE else plain
    return Choice(name, baseline, *pair_ratio(times[name], times[baseline]))


def wins(candidate: list[float], incumbent: list[float]) -> bool:
    """Faster by more than the spread, both as fractions of the incumbent's time."""
    ratio, spread = pair_ratio(candidate, incumbent)
    return ratio + max(ratio * spread, MARGIN) < 1


def pair_ratio(candidate: list[float], incumbent: list[float]) -> tuple[float, float]:
    """Median of the rounds' candidate / incumbent ratios, and their interquartile range over that median."""
    ratios = [a / b for a, b in zip(candidate, incumbent, strict=True)]
    low, middle, high = quantiles(ratios, n=4)
    return middle, (high - low) / middle


def measure(
    candidates: dict[str, Callable[[], object]],
    dense: tuple[str, ...],
    device: torch.device,
    seconds: float,
    cuda_graph: bool = False,
) -> Times:
    """Time the candidates in turn.

    All get a few rounds; the dense ones and the fastest sparse ones then get at least 30, and more, for up to
    ``seconds``, while their ratios have not settled.

    Args:
        candidates: by name.
        dense: names of those that are dense.
        device: that they run on.
        seconds: for more rounds.
        cuda_graph: time replays of CUDA graphs, which leave out what a launch costs the host.

    Returns:
        candidate -> seconds per call of each round.
    """
    samples = {name: _sample(call, device, cuda_graph) for name, call in candidates.items()}
    trial = _rounds(samples, 5)
    sparse = sorted(candidates.keys() - set(dense), key=lambda name: median(trial[name]))[:FINALISTS]
    final = {name: sample for name, sample in samples.items() if name in dense or name in sparse}
    times, deadline = _rounds(final, PAIRS), time.perf_counter() + seconds
    while time.perf_counter() < deadline and not _settled(times):
        for name, more in _rounds(final, 10).items():
            times[name] += more
    return times


def capture(run: Callable[[], object]) -> Callable[[], None]:
    """The replay of a CUDA graph of ``run``, which has run before: tuning a kernel cannot be captured.

    Raises:
        RuntimeError: it waits for the device, or does what else a graph cannot hold.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _settled(times: Times) -> bool:
    first, *others = times.values()
    return all(pair_ratio(other, first)[1] <= STEADY for other in others)


def _rounds(samples: dict[str, Sample], count: int) -> Times:
    both = list(samples.items()), list(samples.items())[::-1]  # what runs before leaves its data in the cache
    rows = [{name: sample() for name, sample in both[i % 2]} for i in range(count)]
    return {name: [row[name]() for row in rows] for name in samples}


def _sample(call: Callable[[], object], device: torch.device, cuda_graph: bool) -> Sample:
    """Sampling of a call, repeated as often as makes it long enough to time."""
    timed = _on_gpu if device.type == "cuda" else _on_cpu
    call()  # packs weights, tunes kernels
    repeats = max(1, round(SAMPLE_S / max(timed(call, 1)(), 1e-7)))

    def run():
        for _ in range(repeats):
            call()

    return partial(timed, capture(run) if cuda_graph else run, repeats)


def _on_gpu(run: Callable[[], object], calls: int) -> Callable[[], float]:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()

    def elapsed() -> float:
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls

    return elapsed


def _on_cpu(run: Callable[[], object], calls: int) -> Callable[[], float]:
    # the time of this thread does not count what other processes take, but misses what other threads do
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    run()
    seconds = max((clock() - begin) / calls, 1e-9)
    return lambda: seconds


def device_name(device: torch.device) -> str:
    """What timings of a device are valid for: its model, and on a CPU the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    threads = torch.get_num_threads()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' if threads > 1 else ''}"
