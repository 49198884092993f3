"""Decisions of a call, kept for the next call with tensors alike."""

import contextlib
import functools
import operator
import threading
from collections.abc import Callable, Iterator, Sequence

import torch
import triton
from torch import Tensor
from triton.runtime.autotuner import Autotuner

from .launch import ALIGNMENT, NOTHING, STATE, all_given

MOST = 4096  # plans that a function keeps, such as one per shape; then the oldest goes for each new one
CHANGING = threading.RLock()  # of what is kept; reading needs no lock
ALIKE = operator.attrgetter("dtype", "shape", "device")
STRIDE = operator.methodcaller("stride")


class Planned:
    """A function split in two: what is decided (``prepare``) and what a call is left to do (what it returns).

    ``prepare(*tensors, *settings)`` returns the function that takes the tensors. It is called once for tensors of the
    same dtype, shape, strides and device and equal settings; so it may look at nothing else.
    """

    def __init__(self, prepare: Callable[..., Callable]):
        functools.update_wrapper(self, prepare)
        self.prepare = prepare
        self.plans = {}
        EVERY.append(self)

    def __call__(self, tensors: tuple, settings: tuple):
        """
        Args:
            tensors: what the plan is for and works on; ``NOTHING`` where one is not given.
            settings: all else that the plan follows from, hashable.
        """
        if STATE.tracing:
            return self.prepare(*tensors, *settings)(*tensors)
        key = (settings, *map(ALIKE, tensors), *map(STRIDE, tensors))
        plan = self.plans.get(key) or self._made(key, tensors, settings)
        return plan(*tensors)

    def _made(self, key: tuple, tensors: tuple, settings: tuple) -> Callable:
        plan = self.prepare(*tensors, *settings)
        with CHANGING:
            while len(self.plans) >= MOST:
                del self.plans[next(iter(self.plans))]
            self.plans[key] = plan
        return plan


EVERY: list[Planned] = []


def checked(check: Callable) -> Callable:
    """Return a check of (tensors, settings) that looks at tensors alike only once: what has fitted once fits again.

    A compiler has each looked at.

    Args:
        check: of ``*tensors, *settings``, None for a tensor that is not given; raises ``ValueError``.
    """

    @Planned
    def fits(*args):
        check(*[None if arg is NOTHING else arg for arg in args])
        return no_work

    @functools.wraps(check)
    def look(tensors: tuple, settings: tuple) -> None:
        if torch.compiler.is_compiling():
            check(*tensors, *settings)
        else:
            fits(all_given(*tensors), settings)

    return look


def no_work(*tensors) -> None:
    """Do nothing: the plan of a check, which was made if it has passed."""


def forget() -> None:
    """Drop all plans: another configuration is wanted for a kernel, or another driver launches."""
    with CHANGING:
        for planned in EVERY:
            planned.plans.clear()


@contextlib.contextmanager
def forced(tuned: Autotuner, config: triton.Config) -> Iterator[None]:
    """Launch a tuned kernel with this configuration, untuned; launches kept with another one are forgotten."""
    before = tuned.configs
    tuned.configs = [config]
    forget()
    try:
        yield
    finally:
        tuned.configs = before
        forget()


def buffers(sizes: Sequence[int], dtype: torch.dtype, device: torch.device) -> Callable[[], Sequence[Tensor]]:
    """Return what makes empty vectors of these sizes, each at a multiple of 16 bytes, in one piece of memory.

    They may be longer, up to such a multiple.

    In a graph each is a tensor of its own: torch would copy what is written through a view.
    """
    if STATE.tracing:
        return lambda: [torch.empty(size, dtype=dtype, device=device) for size in sizes]
    step = ALIGNMENT // dtype.itemsize
    rooms = [-(-size // step) * step for size in sizes]
    total = sum(rooms)
    return lambda: torch.split_with_sizes(torch.empty(total, dtype=dtype, device=device), rooms)
