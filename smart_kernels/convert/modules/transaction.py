"""A change to the modules of a model that either happens whole or not at all."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def whole_or_not_at_all(model: nn.Module) -> Iterator[None]:
    """Put every module of ``model`` back as it was, should an error leave the block.

    Put back are classes, attributes, parameters, buffers, submodules and hooks, all the same objects. What was written
    into a tensor in place is not.
    """
    put_back = remember(model)
    try:
        yield
    except BaseException:
        put_back()
        raise


def remember(model: nn.Module) -> Callable[[], None]:
    """Return what puts every module of ``model`` back as it is now, see ``whole_or_not_at_all``."""
    before = [(module, module.__class__, _contents(module)) for module in model.modules()]

    def put_back() -> None:
        for module, cls, contents in before:
            if module.__class__ is not cls:
                module.__class__ = cls
            for container, content in contents:
                container.clear()
                container.update(content)

    return put_back


def _contents(module: nn.Module) -> list[tuple]:
    """Return the containers of a module with copies; the containers stay, since handles of hooks refer to them."""
    own = [value for value in vars(module).values() if type(value) in (dict, OrderedDict, set)]
    return [(container, container.copy()) for container in (vars(module), *own)]
