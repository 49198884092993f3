"""Launches whose every decision was made before: a call fills in addresses, reads the stream and launches.

``kernel[grid](...)`` decides anew on each call: it binds and specialises the arguments, asks the tuner for its key and
makes a key of strings, all of which costs more than a small kernel runs. The first ``Launch`` with some arguments goes
that way; what Triton would hand to the driver is written down, and later calls repeat it with other addresses.
"""

import contextlib
import functools
import operator
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import triton
from torch import Tensor
from torch.library import wrap_triton
from triton.runtime.autotuner import Autotuner

from .kept import RUNTIME, Kept, prepares, understood

ALIGNMENT = 16  # bytes: Triton compiles other loads for addresses that are a multiple
TENSOR = type("Slot", (), {"__repr__": lambda self: "TENSOR"})()  # where an argument is a tensor of the call
ABSENT = type("Slot", (), {"__repr__": lambda self: "ABSENT"})()  # where a call brings NOTHING, None for the kernel
ADDRESS = Tensor.data_ptr
HOOKS = ENTER, EXIT = RUNTIME.launch_enter_hook, RUNTIME.launch_exit_hook  # chains that profilers add to


class Nothing:
    """The stand-in for a tensor that is not given."""

    dtype = shape = device = None
    stride = type(None)  # called, it gives None, and takes no frame of Python


NOTHING = Nothing()


@dataclass(frozen=True)
class Descriptor:
    """The slot of a tensor that the kernel takes a descriptor of.

    Attributes:
        make: from the tensor to its descriptor, whose base it is; shape, strides and block are those of every call.
    """

    make: Callable[[Tensor], object]


class Launch:
    """One kernel with its grid and all arguments that are not tensors, launched on one device.

    Args:
        kernel: a Triton function, tuned or not.
        grid: as in ``kernel[grid]``; only read once.
        args, constants: its arguments, with ``TENSOR``, ``ABSENT`` or a ``Descriptor`` in place of the tensors.

    A call takes the tensors, in order, ``NOTHING`` for those that are absent. They may lie anywhere; dtypes, and what
    ``args`` was computed from, are those of the first call: whoever keeps a ``Launch`` keeps it under these.
    """

    def __init__(self, kernel, grid, *args, **constants):
        self.kernel = kernel
        self.grid = grid
        self.args = [None if arg is ABSENT else arg for arg in args]
        self.constants = constants
        self.kept: dict[object, Kept | None] = {}
        self.copied: tuple[int, ...] = ()
        called = [arg for arg in (*args, *constants.values()) if _is_slot(arg)]
        present = [i for i, slot in enumerate(called) if slot is not ABSENT]
        self.given = _picker(present) if len(present) < len(called) else None
        slots = [called[i] for i in present]
        self.described = [i for i, slot in enumerate(slots) if slot is not TENSOR]

    def __call__(self, *tensors: Tensor) -> None:
        if self.given is not None:
            tensors = self.given(tensors)
        if STATE.tracing:
            self._into_graph(tensors)
            return
        addresses = tuple(map(ADDRESS, tensors))
        key = None
        if functools.reduce(operator.or_, addresses, 0) % ALIGNMENT:
            key = tuple([address % ALIGNMENT == 0 for address in addresses])
        kept = self.kept.get(key)
        hooks = RUNTIME.launch_enter_hook, RUNTIME.launch_exit_hook  # others may have been set
        if kept is None or hooks != HOOKS or ENTER.calls or EXIT.calls:
            self._by_triton(key, tensors)
            return
        args = kept.args[:]
        if kept.nested is None:
            inner = args
        else:
            args[kept.nested] = inner = kept.kernel_args[:]
        for place, i in kept.places:
            inner[place] = addresses[i]
        for each in kept.maps:
            inner[each.place] = each.fill(addresses[each.slot], *each.settings)
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
        if key in self.kept or compiled is None or prepares(self.kernel):  # None: not launched, see ``compiling``
            return
        again = functools.partial(self.kernel[self.grid], *args, **constants)
        self.kept[key] = understood(compiled, again, stands, self.described)

    def _filled(self, tensors: list[Tensor]) -> tuple[list, dict]:
        left = iter(tensors)

        def fill(arg):
            if arg is TENSOR:
                return next(left)
            return arg.make(next(left)) if isinstance(arg, Descriptor) else arg

        return [fill(arg) for arg in self.args], {name: fill(arg) for name, arg in self.constants.items()}


def _is_slot(arg: object) -> bool:
    return arg is TENSOR or arg is ABSENT or isinstance(arg, Descriptor)


def slot(tensor: Tensor | Nothing) -> object:
    """Return what stands in the place of a tensor, or of none, among the arguments of a ``Launch``."""
    return ABSENT if tensor is NOTHING else TENSOR


def given(tensor: Tensor | None) -> Tensor | Nothing:
    """Return the tensor, or ``NOTHING`` in place of None."""
    return NOTHING if tensor is None else tensor


def all_given(*tensors: Tensor | None) -> tuple[Tensor | Nothing, ...]:
    """Return the tensors as a plan takes them: ``given`` of each, in one call."""
    return tuple([NOTHING if tensor is None else tensor for tensor in tensors])


def aligned(*tensors: Tensor) -> bool:
    """Return whether all lie at multiples of 16 bytes; nobody knows where those of a graph will."""
    return not STATE.tracing and functools.reduce(operator.or_, map(ADDRESS, tensors)) % ALIGNMENT == 0


def _picker(present: list[int]) -> Callable[[tuple], tuple]:
    """Return what takes the entries at these places out of a tuple."""
    if len(present) > 1:
        return operator.itemgetter(*present)
    return lambda tensors: tuple(tensors[i] for i in present)


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
