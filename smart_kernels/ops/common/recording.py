"""Recorders in place of the last steps of a launch: what they are called with, and how tensor maps are filled."""

import copy
import functools
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from triton.runtime import driver

FILLS = ("fill_tma_descriptor", "fill_tma_descriptor_tiled")  # from an address and settings to a tensor map


def own(record: Callable, real: Callable) -> Callable:
    """Return what calls ``record`` in this thread and ``real`` in others, which launch the same kernels meanwhile."""
    me = threading.get_ident()

    def call(*args):
        return (record if threading.get_ident() == me else real)(*args)

    return call


def recorded(compiled, again) -> list:
    """Return what Triton calls the launcher with."""
    seen = []
    launcher = compiled._run

    def record(*args):
        seen.append(list(args))

    compiled._run = own(record, launcher)
    try:
        again()
    finally:
        compiled._run = launcher
    (args,) = seen
    return args


def last_call(launcher, args: list) -> tuple[Callable, list, list]:
    """Return the function in C behind a launcher, what a launch with ``args`` calls it with, and the maps it fills."""
    seen = []
    probe = copy.copy(launcher)
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
    with _filling() as filled:
        probe(*args)
    (last,) = seen
    return launch, last, filled


@contextmanager
def _filling() -> Iterator[list]:
    """Note how tensor maps are filled: (function, arguments, map)."""
    filled = []
    utils = driver.active.utils
    before = {name: getattr(utils, name) for name in FILLS if hasattr(utils, name)}

    def note(fill, *args):
        filled.append((fill, args, fill(*args)))
        return filled[-1][2]

    try:
        for name, fill in before.items():
            setattr(utils, name, own(functools.partial(note, fill), fill))
        yield filled
    finally:
        for name, fill in before.items():
            setattr(utils, name, fill)
