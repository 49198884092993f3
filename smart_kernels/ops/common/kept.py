"""The arguments that Triton hands to the driver for one launch, kept so that they can be handed over again.

The last step before the driver is a function in C. Its arguments differ from one Triton to the next, so they are not
spelled out here: a launch is made once more with a recorder in its place, and what is not recognised is not kept.
"""

import inspect
import threading
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import triton
from torch import Tensor
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from .recording import last_call, recorded

HEAD = ("gridX", "gridY", "gridZ", "stream", "function")  # how a launcher that we know begins
STREAM, FUNCTION, METADATA, ENTER, EXIT = 3, 4, 6, 7, 8  # places in what Triton calls it with
PER_LAUNCH = {"global_scratch_size", "profile_scratch_size", "gsan_enabled"}  # memory or numbers of each launch
KNOWN = PER_LAUNCH | {"launch", "num_ctas", "launch_cooperative_grid", "launch_pdl", "arg_annotations"}
KNOWN |= {"kernel_signature", "global_scratch_align", "profile_scratch_align"}  # what launchers that we know consist of
RUNTIME = triton.knobs.runtime
RECORDING = threading.RLock()  # one recorder stands in place of a launcher at a time


@dataclass(frozen=True, slots=True)
class TensorMap:
    """A tensor map among the arguments, made anew for the address of each call.

    Attributes:
        place: in the arguments of the kernel.
        slot: which tensor of the call it describes.
        fill: from an address and ``settings`` to the map.
        settings: the same for every call.
    """

    place: int
    slot: int
    fill: Callable
    settings: tuple


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
        maps: the tensor maps among the kernel's arguments.
        current: from a device to its current stream.
        device: the device that it was compiled for.
        compiled: the kernel, whose code Triton unloads with it.
    """

    launch: Callable
    args: list
    kernel_args: list | None
    nested: int | None
    stream: int
    places: tuple[tuple[int, int], ...]
    maps: tuple[TensorMap, ...]
    current: Callable[[int], int]
    device: int
    compiled: CompiledKernel


def prepares(kernel) -> bool:
    """Return whether the kernel has functions that Triton calls before each launch."""
    while not isinstance(kernel, JITFunction):
        config = getattr(kernel, "best_config", None)
        if config is not None and config.pre_hook is not None:
            return True
        kernel = getattr(kernel, "fn", None)
        if kernel is None or isinstance(kernel, types.FunctionType):  # interpreted
            return True
    return bool(kernel.pre_run_hooks)


def understood(
    compiled, again: Callable[[], object], tensors: list[Tensor], described: Sequence[int] = ()
) -> Kept | None:
    """Return what ``again`` hands to the driver; None where Triton launches in a way that we do not know.

    Args:
        compiled: what the same call of ``kernel[grid]`` returned.
        again: the call; it is made once more, but not launched.
        tensors: its tensors, each an object of its own.
        described: which of them are handed over as descriptors, in the order of the arguments.
    """
    compiled = compiled.kernel if hasattr(compiled, "future") else compiled  # another thread compiled it meanwhile
    if RUNTIME.interpret or not isinstance(compiled, CompiledKernel):
        return None
    if driver.active.get_current_target().backend != "cuda":
        return None  # AMD compiles for the size of what a tensor lies in, too
    try:
        with RECORDING:
            return _understood(compiled, again, tensors, described)
    except (AttributeError, LookupError, TypeError, ValueError):  # another Triton
        return None


def _understood(compiled, again, tensors, described) -> Kept | None:
    launcher = compiled.run
    if not set(vars(launcher)) <= KNOWN or any(getattr(launcher, name, False) for name in PER_LAUNCH):
        return None
    if tuple(inspect.signature(launcher).parameters)[: len(HEAD)] != HEAD:
        return None
    args = recorded(compiled, again)
    if args[FUNCTION] != compiled.function or args[ENTER] is not RUNTIME.launch_enter_hook:
        return None
    if args[EXIT] is not RUNTIME.launch_exit_hook:
        return None
    stream = object()
    args[STREAM], args[METADATA], args[ENTER], args[EXIT] = stream, None, None, None  # only hooks read the metadata
    launch, last, filled = last_call(launcher, args)
    if len(filled) != len(described):
        return None
    return _kept(compiled, launch, last, stream, tensors, dict(zip(described, filled, strict=True)))


def _kept(compiled, launch, args: list, stream: object, tensors: list[Tensor], filled: dict) -> Kept | None:
    """Return ``args`` with the places of the stream, the tensors and their maps; None where one is not found."""
    nested = len(args) - 1 if isinstance(args[-1], (tuple, list)) else None
    inner = args if nested is None else list(args[-1])
    where = {id(arg): place for place, arg in enumerate(inner)}
    maps = tuple(TensorMap(where[id(made)], i, fill, given[1:]) for i, (fill, given, made) in filled.items())
    if any(given[0] != tensors[i].data_ptr() for i, (_, given, _) in filled.items()):
        return None
    places = tuple((where[id(t)], i) for i, t in enumerate(tensors) if i not in filled)
    for place in (*(place for place, _ in places), *(each.place for each in maps)):
        inner[place] = 0
    if any(isinstance(arg, Tensor) for arg in inner):  # its memory would be kept, and handed over at every call
        return None
    (at,) = [place for place, arg in enumerate(args) if arg is stream]
    args[at] = 0
    if nested is not None:
        args[nested] = None  # what is handed over there holds the tensors
    kernel_args = None if nested is None else inner
    active = driver.active
    device = active.get_current_device()
    return Kept(launch, args, kernel_args, nested, at, places, maps, active.get_current_stream, device, compiled)
