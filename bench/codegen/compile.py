"""Compile what the launchers launch, with no GPU: ``python -m bench.codegen.compile TARGET OUT CASE...``

A driver that only claims a GPU lets ``JITFunction.run(warmup=True)`` specialise and compile exactly as on one, so
the census sees the real arguments (strides, alignment, flags) and every configuration of an autotuned kernel.
Runs in its own process: inline assembly for the wrong target and LLVM errors abort the whole process.
"""

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from smart_kernels.kernels.common import Tuned
from smart_kernels.ops.common import LAUNCHERS, ON_CPU

from . import sass
from .cases import CASES
from .table import LIMITS


def target_of(name: str) -> GPUTarget:
    """Return ``"sm_90"`` or ``"gfx942"`` as Triton's target."""
    return GPUTarget("cuda", int(name[3:]), 32) if name.startswith("sm_") else GPUTarget("hip", name, 64)


class ClaimedDriver(DriverBase):
    """A driver that answers what compiling asks and cannot launch."""

    def __init__(self, name: str):
        self.target = target_of(name)
        self.device = [*LIMITS].index(name)
        self.utils = SimpleNamespace(get_device_properties=lambda device: {"max_shared_mem": LIMITS[name]})

    def is_active(self):
        return True

    def get_current_target(self):
        return self.target

    def get_active_torch_device(self):
        return torch.device("cpu")

    def get_current_device(self):
        return self.device  # what is compiled for one device, Triton uses for it again

    def get_current_stream(self, device=None):
        return 0

    def get_benchmarker(self):
        raise NotImplementedError("nothing is timed without a GPU")

    def map_python_to_cpp_type(self, ty):
        raise NotImplementedError("nothing is launched without a GPU")


@contextlib.contextmanager
def launchers() -> Iterator[None]:
    """Send CPU tensors to the Triton launchers instead of the references."""
    with mock.patch.dict(ON_CPU, LAUNCHERS):
        yield


@contextlib.contextmanager
def every_form() -> Iterator[None]:
    """Let a product that has several forms launch each: none is verified first, and all are equally fast."""
    with (
        mock.patch("smart_kernels.ops.common.exact.verified", lambda device, form: None),
        mock.patch("smart_kernels.ops.common.fastest.time_launches", lambda call, quantiles: [1.0]),
    ):
        yield


def record_compiles(found: dict) -> None:
    """Let every launch only compile; ``found`` maps the hash of a compiled kernel to (kernel, what ptxas said)."""
    run = JITFunction.run

    def compile_only(self, *args, grid, warmup, **kwargs):
        with contextlib.redirect_stdout(io.StringIO()) as log:
            compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
        found.setdefault(compiled.hash, (compiled, log.getvalue()))
        return compiled

    def compile_each(self, *args, **kwargs):
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        for config in self.runnable(self.configs, self.nargs, **kwargs):  # a tuner tries fewer
            self.fn.run(*args, **kwargs, **config.all_kwargs())

    JITFunction.run = compile_only
    Tuned.run = compile_each


def main(target: str, out: str, names: list[str]) -> None:
    """Compile cases for a target; append each kernel to ``out`` as a line of JSON, and each case as it begins."""
    driver.set_active(ClaimedDriver(target))
    triton.knobs.nvidia.dump_ptxas_log = True
    found: dict = {}
    seen: set = set()
    record_compiles(found)
    with launchers(), every_form(), open(out, "a") as lines, tempfile.TemporaryDirectory() as cache:
        triton.knobs.cache.dir = cache  # ptxas reports only when it runs
        for name in names:
            print(json.dumps({"case": name, "begin": True}), file=lines, flush=True)
            try:
                CASES[name]()
            except Exception as error:
                row = {"case": name, "kernel": "", "error": f"{type(error).__name__}: {error}"[:300]}
                print(json.dumps(row), file=lines, flush=True)
            for key in [key for key in found if key not in seen]:  # in order, so that two tables can be compared
                seen.add(key)
                print(json.dumps({"case": name, **sass.describe(*found[key])}), file=lines, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
