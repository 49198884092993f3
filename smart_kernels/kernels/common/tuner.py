"""How a launch configuration is chosen: compiled side by side, timed as a model launches it."""

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import triton
from triton.runtime import driver
from triton.runtime.autotuner import Autotuner

GRAPH_MS = 1.0  # of launches in the graph that times a configuration
MOST_LAUNCHES = 200  # in it: each costs the host 20 us and more
REPLAYS = 10


class Compiler:
    """Compiles side by side in threads while the caller goes on.

    Most of the time goes into LLVM and ptxas, which run without Python's lock. What does not compile is left to the
    launch, which says why.

    Args:
        workers: threads; default: a few more than there are processors.

    Attributes:
        submitted: launches that were compiled instead.
    """

    def __init__(self, workers: int | None = None):
        self.submitted = 0
        self._pool = ThreadPoolExecutor(workers, "compile")
        self._mode = triton.AsyncCompileMode(self._pool, ignore_errors=True)
        self._context = contextvars.Context()  # for all threads: the backward of torch has its own
        self._context.run(self._mode.__enter__)
        self._one_at_a_time = threading.Lock()

    def submit(self, kernel, args: tuple, kwargs: dict, configs: list[triton.Config]) -> None:
        """Compile a kernel for the arguments of a launch, in each of the configurations, unless that is under way."""
        with self._one_at_a_time:
            self.submitted += 1
            for config in configs:
                settings = kwargs | config.all_kwargs() | {"warmup": True}
                self._context.run(kernel.run, *args, **settings)

    def finish(self) -> None:
        """Wait for everything."""
        with self._pool:
            self._context.run(self._mode.__exit__, None, None, None)


COMPILERS: list[Compiler] = []  # the last one takes what is launched


@contextlib.contextmanager
def compiling(workers: int | None = None) -> Iterator[Compiler]:
    """Compile tuned kernels instead of launching them: when the block ends all that it launched is ready.

    What they would have written is not: only values follow from tuned kernels, never places, so nothing goes astray.
    Other kernels are launched, and so are those with a single configuration, whose results somebody may keep. Nothing
    changes in the interpreter.
    """
    compiler = Compiler(workers)
    if not triton.knobs.runtime.interpret:
        COMPILERS.append(compiler)
    try:
        yield compiler
    finally:
        if compiler in COMPILERS:
            COMPILERS.remove(compiler)
        compiler.finish()


class Tuned(Autotuner):
    """``triton.autotune``'s tuner, which compiles the configurations of a problem side by side before it times them.

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

    def run(self, *args, **kwargs):
        if COMPILERS and len(self.configs) > 1:
            self.nargs = dict(zip(self.arg_names, args, strict=False))
            configs = self.prune_configs(kwargs)
            self.nargs = None
            return COMPILERS[-1].submit(self.fn, args, kwargs, configs)
        self._call = args, kwargs
        try:
            return super().run(*args, **kwargs)
        finally:
            self._call = None  # keeps no tensor alive

    def check_disk_cache(self, tuning_key, configs, bench_fn):
        """Return whether Triton's cache knows the winner; otherwise compile all and time them."""

        call = self._call

        def compile_and_time():
            if call is not None:
                compiler = Compiler()
                compiler.submit(self.fn, *call, configs)
                compiler.finish()
            bench_fn()

        return super().check_disk_cache(tuning_key, configs, compile_and_time)


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
