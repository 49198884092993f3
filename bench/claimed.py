"""A GPU that is only claimed: the host does all that a launch costs it, and the launch itself is written down.

Tensors are on the CPU and go to the Triton launchers as if they were on a GPU. Triton specialises and looks up kernels
as on one and calls its own launcher; only compiling and the last C function, which would hand the arguments to the
driver, are replaced. So counts are those of a GPU, but for what torch does inside of ``cuda`` kernels.
"""

import contextlib
import itertools
import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.nvidia import driver as nvidia
from triton.compiler import CompiledKernel
from triton.knobs import HookChain
from triton.runtime import driver

from smart_kernels.ops.common import forget

from .codegen.compile import ClaimedDriver, launchers

DEVICES = itertools.count(1000)  # Triton keeps what it compiled by device: each claim is another one
METADATA = {"shared": 0, "num_ctas": 1, "warp_size": 32, "launch_cooperative_grid": False}
METADATA |= {f"{kind}_scratch_{what}": 0 for kind in ("global", "profile") for what in ("size", "align")}


class CountingDriver(ClaimedDriver):
    """Launches with Triton's own launcher, whose last function appends its arguments to ``launches``."""

    def __init__(self, target: str):
        super().__init__(target)
        self.device = next(DEVICES)
        self.launches = []
        self.names = {}
        self.launcher_cls = nvidia.CudaLauncher
        self.utils.load_binary = self._load
        self.utils.unload_module = lambda module: None
        self.utils.build_signature_metadata = lambda signature: b""
        self.utils.launch = self._launch
        for name in ("fill_tma_descriptor", "fill_tma_descriptor_tiled"):
            setattr(self.utils, name, lambda *settings: ("tensor map", *map(_plain, settings)))

    def _load(self, name, kernel, shared, device):
        function = 7 + len(self.names)
        self.names[function] = name
        return object(), function, 32, 0, 1024

    def _launch(self, *args):
        """Call the hooks, as the C function does, and keep the arguments."""
        for arg in args:
            if isinstance(arg, HookChain):
                arg(None)
        self.launches.append(args)

    def get_current_stream(self, device=None):
        return 0

    def get_benchmarker(self):
        return lambda call, quantiles: [1.0] * len(quantiles)  # nothing is timed: the first configuration is as good


class NotCompiled(CompiledKernel):
    """The result of compiling, without the code."""

    def __init__(self, src, target, options):
        tensors = [_descriptor(t) for t in src.signature.values() if str(t).startswith("tensordesc")]
        settings = {"name": src.name, "target": target, "num_warps": options["num_warps"], "tensordesc_meta": tensors}
        settings["launch_pdl"] = options.get("launch_pdl", False)
        self.metadata = SimpleNamespace(**METADATA, **settings)
        self.packed_metadata = (options["num_warps"], 1, 0)
        self.src = src
        self.name = src.name
        self.hash = src.hash()
        self.kernel = b""
        self.asm = {}
        self.metadata_group = {}
        self.options = options
        self.module = self.function = self._run = self._module_pid = None


def _descriptor(signature: str) -> dict:
    sizes = [int(size) for size in re.search(r"\[([^\]]*)\]", signature)[1].split(",")]
    return {"swizzle": 3, "elem_size": 2, "elem_type": 6, "block_size": sizes, "fp4_padded": False}


def _plain(value):
    return tuple(value) if isinstance(value, (list, tuple)) else value


@contextlib.contextmanager
def claimed(target: str = "sm_90") -> Iterator[CountingDriver]:
    """CPU tensors are launched on a GPU that is not there; the driver says what was."""
    before = driver._active
    counting = CountingDriver(target)
    annotated = lambda nested_tuple, type: (nested_tuple, type)  # noqa: E731

    compile_, kernels = triton.compiler.compile, set()

    def not_compiled(src, target=None, options=None, **_):
        kernels.add(src.fn)
        return NotCompiled(src, target, options)

    def compile_again():
        for kernel in kernels:  # Triton leaves with a kernel what compiled it last, for all devices
            kernel.compile = compile_

    with contextlib.ExitStack() as stack:
        stack.callback(compile_again)
        forget()
        stack.callback(forget)  # what is kept is launched by this driver
        stack.callback(driver.set_active, before)
        stack.enter_context(mock.patch.object(triton.compiler, "compile", not_compiled))
        if hasattr(nvidia, "PyKernelArg"):  # newer: one function launches all kernels
            for name, value in {"PyKernelArg": annotated, "ARG_CONSTEXPR": 0, "ARG_KERNEL": 1, "ARG_TUPLE": 2}.items():
                stack.enter_context(mock.patch.object(nvidia, name, value))
        if hasattr(nvidia, "compile_module_from_src"):  # 3.6: each signature has a C function of its own
            module = SimpleNamespace(launch=counting._launch)
            stack.enter_context(mock.patch.object(nvidia, "compile_module_from_src", lambda **_: module))
            stack.enter_context(mock.patch.object(nvidia, "library_dirs", lambda: []))
        capability = divmod(counting.target.arch, 10)
        stack.enter_context(mock.patch.object(torch.cuda, "get_device_capability", lambda *_: capability))
        driver.set_active(counting)
        stack.enter_context(on_any_device())
        yield counting


@contextlib.contextmanager
def on_any_device() -> Iterator[None]:
    """Operators take the way of a GPU for CPU tensors, launchers included."""
    modules = [m for name, m in list(sys.modules.items()) if name.startswith("smart_kernels.")]
    with launchers(), contextlib.ExitStack() as stack:
        for module in (m for m in modules if hasattr(m, "TRITON_DEVICES")):
            stack.enter_context(mock.patch.object(module, "TRITON_DEVICES", ("cuda", "cpu")))
        yield


def arguments(launch: tuple) -> tuple:
    """A launch as plain values, whichever Triton wrote it: pointers as addresses, no annotations of the signature."""
    flat = [*launch[:-1], *launch[-1]] if isinstance(launch[-1], (tuple, list)) else [*launch]
    return tuple(value.data_ptr() if isinstance(value, Tensor) else value for value in flat)
