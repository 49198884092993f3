"""How a launch configuration is chosen: compiled side by side, timed as a model launches it."""

import threading
from collections.abc import Callable

from triton.runtime import driver
from triton.runtime.autotuner import Autotuner

from .side_by_side import HERE, Compiler

GRAPH_MS = 1.0  # of launches in the graph that times a configuration
MOST_LAUNCHES = 200  # in it: each costs the host 20 us and more
REPLAYS = 10
TUNING = threading.RLock()  # a tuner holds the arguments of one call, and two that time at once disturb each other


class Tuned(Autotuner):
    """``triton.autotune``'s tuner, which compiles the configurations of a problem side by side before it times them.

    Several threads may launch; what was found on one kind of GPU is not used on another.

    Args:
        kernel: what is tuned.
        configs: the first is valid for every shape.
        key: names of the arguments that a choice is for.
        runnable: (configs, args, **kwargs) -> those that can run a problem.
        few: runnable ones -> those that are tried.
    """

    def __init__(self, kernel, configs, key, runnable: Callable[..., list], few: Callable[[list], list]):
        def prune(configs, args, **kwargs):
            return few(runnable(configs, args, **kwargs))

        super().__init__(
            kernel, kernel.arg_names, configs, key, None, None,
            prune_configs_by={"early_config_prune": prune}, do_bench=time_launches, cache_results=True,
        )  # fmt: skip
        self.runnable = runnable
        self._call: tuple[tuple, dict] | None = None

    @property
    def cache(self) -> dict:
        """Return what was found on GPUs of the current kind: a configuration for each key."""
        return self._found.setdefault(driver.active.get_current_target(), {})

    @cache.setter
    def cache(self, found: dict) -> None:
        self._found: dict = {}  # nobody but Triton's constructor sets it, to an empty one

    def run(self, *args, **kwargs):
        with TUNING:
            return self._run(args, kwargs)

    def _run(self, args: tuple, kwargs: dict):
        if HERE.compiler is not None and len(self.configs) > 1:
            self.nargs = dict(zip(self.arg_names, args, strict=False))
            configs = self.prune_configs(kwargs)
            self.nargs = None
            return HERE.compiler.submit(self.fn, args, kwargs, configs)
        self._call = args, kwargs
        try:
            return super().run(*args, **kwargs)
        finally:
            self._call = None  # keeps no tensor alive

    def check_disk_cache(self, tuning_key, configs, bench_fn):
        """Return whether Triton's cache knows the winner; otherwise compile all and time them.

        Raises:
            RuntimeError: a CUDA graph is captured, which cannot hold what times them.
        """
        call = self._call

        def compile_and_time():
            refuse_capture(self.base_fn.__name__)
            if call is not None:
                compiler = Compiler()
                compiler.submit(self.fn, *call, configs)
                compiler.finish()
            bench_fn()

        return super().check_disk_cache(tuning_key, configs, compile_and_time)


def refuse_capture(name: str) -> None:
    """Raise ``RuntimeError`` while the current stream is captured: what follows would end the capture unexplained."""
    interface = getattr(driver.active, "get_device_interface", None)
    if interface is not None and interface().is_current_stream_capturing():
        raise RuntimeError(
            f"{name} must be tuned before a CUDA graph is captured, got a capture: call warmup, or the model, before"
        )


def time_launches(call: Callable[[], object], quantiles: tuple[float, ...]) -> list[float]:
    """Return quantiles of the milliseconds that a launch takes on the device.

    Launches follow each other in a CUDA graph: no host between them, and in the L2 cache what the one before has left
    there. Where no graph can hold them, Triton's own way, which flushes the cache and includes the host where that is
    slower.
    """
    try:
        return in_graph(call, quantiles)
    except RuntimeError:  # what the launch itself raises is no RuntimeError
        return driver.active.get_benchmarker()(call, quantiles=quantiles)


def in_graph(call: Callable[[], object], quantiles: tuple[float, ...]) -> list[float]:
    """Return the same from replays of a graph whose length follows from what one launch in a graph takes.

    Raises:
        RuntimeError: the launches cannot be captured, or there is no device that could.
    """
    interface = getattr(driver.active, "get_device_interface", None)
    if interface is None:
        raise RuntimeError("a CUDA graph needs a GPU, got a driver without one")
    cuda = interface()
    cuda.synchronize()  # the launches go to another stream, which must find their arguments written
    with cuda.stream(cuda.Stream()):
        call()  # loads the kernel, which cannot be captured
        (once,) = _replays(cuda, call, launches=1, count=1)
        launches = max(1, min(MOST_LAUNCHES, round(GRAPH_MS / max(once, 1e-4))))
        times = sorted(_replays(cuda, call, launches, REPLAYS))
    return [times[round(quantile * (len(times) - 1))] for quantile in quantiles]


def _replays(cuda, call: Callable[[], object], launches: int, count: int) -> list[float]:
    """Return the milliseconds per launch of each replay of a graph."""
    graph = cuda.CUDAGraph()
    graph.capture_begin(capture_error_mode="thread_local")  # what other threads do meanwhile is no error
    try:
        for _ in range(launches):
            call()
    finally:
        graph.capture_end()
    graph.replay()  # the first brings the graph to the device
    times = []
    for _ in range(count):
        start = cuda.Event(enable_timing=True)
        end = cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / launches)
    return times
