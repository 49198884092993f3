"""Where in a model an operator is called: the module that runs, and which call of this operator in it."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from torch import nn


class Place(NamedTuple):
    """A call of an operator, the same in every run of a model.

    Attributes:
        module: name of the innermost module that runs; empty for the model itself.
        operator: its name; empty for the module's input.
        call: how many calls of this operator the module made before.
    """

    module: str
    operator: str = ""
    call: int = 0

    def __str__(self) -> str:
        where = f"in {self.module}" if self.module else "in the model's own forward"
        return f"{self.operator} {where}".lstrip()


class Places:
    """The modules that run, and what they have called so far."""

    def __init__(self):
        self._running = [""]
        self._calls: Counter = Counter()

    @property
    def module(self) -> str:
        """Return the name of the module that runs; after an error, of the one that raised it."""
        return self._running[-1]

    def next(self, operator: str) -> Place:
        """Return the place of the call that comes now."""
        place = Place(self.module, operator, self._calls[self.module, operator])
        self._calls[self.module, operator] += 1
        return place

    @contextmanager
    def watching(self, model: nn.Module, enter: Callable) -> Iterator[None]:
        """Keep track of the modules inside that run, and call ``enter(place, inputs)`` before each."""

        def before(name, _, args, kwargs):
            self._running.append(name)
            enter(Place(name), (args, kwargs))

        def after(name, *_):
            if name in self._running:
                del self._running[len(self._running) - 1 - self._running[::-1].index(name) :]

        hooks = []
        for name, module in model.named_modules():
            if name:
                hooks.append(module.register_forward_pre_hook(partial(before, name), prepend=True, with_kwargs=True))
                hooks.append(module.register_forward_hook(partial(after, name)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
