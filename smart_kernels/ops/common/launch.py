"""Launches whose every decision was made before: a call fills in addresses, reads the stream and launches.

``kernel[grid](...)`` decides anew on each call: it binds and specialises the arguments, asks the tuner for its key and
makes a key of strings, all of which costs more than a small kernel runs. The first ``Launch`` with some arguments goes
that way; what Triton would hand to the driver is written down, and later calls repeat it with other addresses.
"""

import contextlib
import copy
import functools
import inspect
import operator
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import triton
from torch import Tensor
from torch.library import wrap_triton
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

ALIGNMENT = 16  # bytes: Triton compiles other loads for addresses that are a multiple
MOST = 1024  # launches kept by address, where descriptors hold it
TENSOR = type("Slot", (), {"__repr__": lambda self: "TENSOR"})()  # where an argument is a tensor of the call
HEAD = ("gridX", "gridY", "gridZ", "stream", "function")  # how a launcher that we know begins
STREAM, METADATA, ENTER, EXIT = 3, 6, 7, 8  # places in what it is called with


@dataclass(frozen=True)
class Descriptor:
    """The slot of a tensor that the kernel takes a descriptor of.

    Attributes:
        make: from the tensor to its descriptor, whose base it is; shape, strides and block are those of every call.
    """

    make: Callable[[Tensor], object]


@dataclass(frozen=True, slots=True)
class Kept:
    """A call of the last function before the driver, which is in C.

    Attributes:
        launch: the function.
        args: its arguments, with those of the kernel among them or, in newer Tritons, in a tuple at ``nested``.
        kernel_args: what is in that tuple; None where there is none.
        nested: its place in ``args``; None where there is none.
        stream: the place of the stream in ``args``.
        places: (place, i): where the address of tensor i goes, in ``kernel_args`` if there are, else in ``args``.
        current: from a device to its current stream.
        device: the device that it was compiled for.
    """

    launch: Callable
    args: list
    kernel_args: list | None
    nested: int | None
    stream: int
    places: tuple[tuple[int, int], ...]
    current: Callable[[int], int]
    device: int


class Launch:
    """One kernel with its grid and all arguments that are not tensors, launched on one device.

    Args:
        kernel: a Triton function, tuned or not.
        grid: as in ``kernel[grid]``; only read once.
        args, constants: its arguments, with ``TENSOR`` or a ``Descriptor`` in place of the tensors.

    A call takes the tensors, in order. They may lie anywhere; dtypes, and what ``args`` was computed from, are those of
    the first call: whoever keeps a ``Launch`` keeps it under these.
    """

    def __init__(self, kernel, grid, *args, **constants):
        self.kernel, self.grid, self.args, self.constants = kernel, grid, args, constants
        self.kept: dict[object, Kept | None] = {}
        self.copied: tuple[int, ...] = ()
        slots = [arg for arg in (*args, *constants.values()) if arg is TENSOR or isinstance(arg, Descriptor)]
        described = [i for i, slot in enumerate(slots) if slot is not TENSOR]
        self.held = operator.itemgetter(*described) if described else None  # addresses that a kept launch holds

    def __call__(self, *tensors: Tensor) -> None:
        if STATE.tracing:
            self._into_graph(tensors)
            return
        addresses = tuple(map(ADDRESS, tensors))
        key = None
        if functools.reduce(operator.or_, addresses, 0) % ALIGNMENT:
            key = tuple([address % ALIGNMENT == 0 for address in addresses])
        if self.held is not None:
            key = (key, self.held(addresses))
        kept = self.kept.get(key)
        if kept is None or RUNTIME.launch_enter_hook.calls or RUNTIME.launch_exit_hook.calls:
            self._by_triton(key, tensors)
            return
        args, inner = kept.args[:], kept.args
        if kept.nested is None:
            inner = args
        else:
            args[kept.nested] = inner = kept.kernel_args[:]
        for place, i in kept.places:
            inner[place] = addresses[i]
        args[kept.stream] = kept.current(kept.device)
        kept.launch(*args)

    def reading(self, *slots: int) -> "Launch":
        """Say that these tensors are only read, where torch cannot see it.

        It takes for written what a function called by the kernel reads if an address of a store follows from that. In a
        graph the kernel then gets a copy, and the tensor itself is not marked as changed.
        """
        self.copied = slots
        return self

    def _into_graph(self, tensors: tuple[Tensor, ...]) -> None:
        args, constants = self._filled([t.clone() if i in self.copied else t for i, t in enumerate(tensors)])
        kernel = as_tuned(self.kernel, args, constants)
        wrap_triton(kernel)[self.grid](*args, **constants)

    def _by_triton(self, key, tensors: tuple[Tensor, ...]) -> None:
        """Launch with ``kernel[grid]`` and keep what it led to, if that can be understood."""
        stands = [tensor.detach() for tensor in tensors]  # one object for each slot, though a tensor be given twice
        args, constants = self._filled(stands)
        compiled = self.kernel[self.grid](*args, **constants)
        if key in self.kept or prepares(self.kernel):
            return
        if len(self.kept) >= MOST:
            self.kept.clear()
        again = functools.partial(self.kernel[self.grid], *args, **constants)
        self.kept[key] = understood(compiled, again, stands)

    def _filled(self, tensors: list[Tensor]) -> tuple[list, dict]:
        left = iter(tensors)

        def fill(arg):
            if arg is TENSOR:
                return next(left)
            return arg.make(next(left)) if isinstance(arg, Descriptor) else arg

        return [fill(arg) for arg in self.args], {name: fill(arg) for name, arg in self.constants.items()}


ADDRESS = Tensor.data_ptr
RUNTIME = triton.knobs.runtime


class State(threading.local):
    """Whether this thread makes a graph of launches instead of launching."""

    tracing = False


STATE = State()


@contextlib.contextmanager
def traced() -> Iterator[None]:
    """Launches become nodes of the graph that torch traces."""
    before, STATE.tracing = STATE.tracing, True
    try:
        yield
    finally:
        STATE.tracing = before


def as_tuned(kernel, args: list, constants: dict):
    """The kernel in the configuration that its tuner found for such arguments; as it is where none has been found.

    A compiler tunes the configurations that are worth trying itself; it need not where it is known.
    """
    if not isinstance(kernel, Autotuner) or not kernel.cache:
        return kernel
    named = dict(zip(kernel.arg_names, args, strict=False)) | constants
    dtypes = [str(arg.dtype) for name, arg in named.items() if name in kernel.arg_names and hasattr(arg, "dtype")]
    config = kernel.cache.get((*(named[name] for name in kernel.keys if name in named), *dtypes))
    return kernel if config is None else triton.autotune(configs=[config], key=[])(kernel.fn)


def prepares(kernel) -> bool:
    """Whether the kernel has functions that Triton calls before each launch."""
    while not isinstance(kernel, JITFunction):
        config = getattr(kernel, "best_config", None)
        if config is not None and config.pre_hook is not None:
            return True
        kernel = getattr(kernel, "fn", None)
        if kernel is None or isinstance(kernel, types.FunctionType):  # interpreted
            return True
    return bool(kernel.pre_run_hooks)


def understood(compiled, again: Callable[[], object], tensors: list[Tensor]) -> Kept | None:
    """What ``again`` hands to the driver; None where Triton launches in a way that we do not know.

    Args:
        compiled: what the same call of ``kernel[grid]`` returned.
        again: the call; it is made once more, but not launched.
        tensors: its tensors, each an object of its own.
    """
    if triton.knobs.runtime.interpret or not isinstance(compiled, CompiledKernel):
        return None
    if driver.active.get_current_target().backend != "cuda":
        return None  # AMD compiles for the size of what a tensor lies in, too
    try:
        return _understood(compiled, again, tensors)
    except (AttributeError, IndexError, KeyError, LookupError, TypeError, ValueError):
        return None


def _understood(compiled, again, tensors) -> Kept | None:
    launcher = compiled.run
    if tuple(inspect.signature(launcher).parameters)[: len(HEAD)] != HEAD:
        return None
    args = _recorded(compiled, again)
    if args[4] != compiled.function or args[ENTER] is not RUNTIME.launch_enter_hook:
        return None
    if args[EXIT] is not RUNTIME.launch_exit_hook:
        return None
    stream = object()
    args[STREAM], args[METADATA], args[ENTER], args[EXIT] = stream, None, None, None  # only hooks read the metadata
    launch, last = _last(launcher, args)
    return _kept(launch, last, stream, tensors)


def _recorded(compiled, again) -> list:
    """What Triton calls the launcher with."""
    seen, launcher, me = [], compiled._run, threading.get_ident()

    def record(*args):
        if threading.get_ident() == me:
            seen.append(list(args))
        else:  # another thread launches the same kernel
            launcher(*args)

    compiled._run = record
    try:
        again()
    finally:
        compiled._run = launcher
    (args,) = seen
    return args


def _last(launcher, args: list) -> tuple[Callable, list]:
    """The function in C behind a launcher, and what a launch with ``args`` calls it with."""
    seen, probe = [], copy.copy(launcher)
    launch = launcher.launch

    def record(*args):
        seen.append(list(args))

    probe.launch = record
    if isinstance(launch, types.FunctionType):  # turns descriptors into tensor maps and calls a function in C
        cells = dict(zip(launch.__code__.co_freevars, launch.__closure__, strict=True))
        through = cells["launcher"].cell_contents
        cells["launcher"] = types.CellType(record)
        closure = tuple(cells[name] for name in launch.__code__.co_freevars)
        probe.launch = types.FunctionType(
            launch.__code__, launch.__globals__, launch.__name__, launch.__defaults__, closure
        )
        launch = through
    probe(*args)
    (last,) = seen
    return launch, last


def _kept(launch, args: list, stream: object, tensors: list[Tensor]) -> Kept:
    """``args`` with the places of the stream and of the tensors in them."""
    nested = len(args) - 1 if isinstance(args[-1], (tuple, list)) else None
    inner = args if nested is None else list(args[-1])
    where = {id(arg): place for place, arg in enumerate(inner)}
    places = tuple((where[id(t)], i) for i, t in enumerate(tensors) if id(t) in where)
    for place, _ in places:
        inner[place] = 0  # no tensor is kept alive
    (at,) = [place for place, arg in enumerate(args) if arg is stream]
    args[at] = 0
    kernel_args = None if nested is None else inner
    active = driver.active
    return Kept(launch, args, kernel_args, nested, at, places, active.get_current_stream, active.get_current_device())
