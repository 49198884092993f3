"""Kernels compiled side by side in threads, in place of being launched."""

import contextlib
import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import triton


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

    @contextlib.contextmanager
    def taking(self) -> Iterator[None]:
        """Take what this thread launches. Others launch as ever: they may serve requests meanwhile."""
        before, HERE.compiler = HERE.compiler, self
        try:
            yield
        finally:
            HERE.compiler = before

    def finish(self) -> None:
        """Wait for everything."""
        with self._pool:
            self._context.run(self._mode.__exit__, None, None, None)


class Here(threading.local):
    """Return what takes the launches of this thread."""

    compiler: Compiler | None = None


HERE = Here()


@contextlib.contextmanager
def compiling(workers: int | None = None) -> Iterator[Compiler]:
    """Compile tuned kernels instead of launching them: when the block ends all that this thread launched is ready.

    What they would have written is not: only values follow from tuned kernels, never places, so nothing goes astray.
    Other kernels are launched, and so are those with a single configuration, whose results somebody may keep. Nothing
    changes in the interpreter, nor for other threads but where they enter ``Compiler.taking``.
    """
    compiler = Compiler(workers)
    take = contextlib.nullcontext() if triton.knobs.runtime.interpret else compiler.taking()
    try:
        with take:
            yield compiler
    finally:
        compiler.finish()
