"""Sizes that modules keep as numbers of their own, ``self.num_heads`` say, and cut channels by.

Which number a size came from is not guessed from its value or its name: for one run each number is an object that is
known again where an operator gets it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from torch import nn

SHAPES = ("view", "reshape", "unflatten")  # operators that are given the sizes of what they return
OTHERS = ("torch", "smart_kernels")  # layers of these keep sizes that follow from their tensors, see ``resize_``
Numbers = dict[str, dict[str, int]]  # module -> attribute -> value
NOTED = "_slimmed_numbers"


class Number(NamedTuple):
    """An attribute of a module that is an int."""

    module: str
    name: str


class Marked(int):
    """A number that is told from all equal ones by being an object of its own."""


@contextmanager
def marked(model: nn.Module) -> Iterator[dict[int, Number]]:
    """Mark all numbers that modules keep; in the end they are plain again, those that ``forward`` has stored, too.

    Yields:
        the id of each -> whose it is.
    """
    whose: dict[int, Number] = {}
    try:
        for name, module in model.named_modules():
            for key in _numbers_of(module):
                vars(module)[key] = number = Marked(vars(module)[key])
                whose[id(number)] = Number(name, key)
        yield whose
    finally:
        for module in model.modules():
            vars(module).update({key: int(value) for key, value in vars(module).items() if type(value) is Marked})


def sizes_given(operator: str, args: tuple, kwargs: Mapping) -> dict[int, object]:
    """Return the sizes that an operator of ``SHAPES`` was given, by the dimension of its result."""
    if operator == "unflatten":
        known = len(args) == 3 and isinstance(args[1], int)  # dimensions may have names
        return dict(enumerate(args[2], args[1] % args[0].dim())) if known else {}
    sizes = args[1:] or tuple(kwargs[name] for name in ("size", "shape") if name in kwargs)
    return dict(enumerate(sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes))


def set_numbers_(model: nn.Module, sizes: Mapping[Number, set[int]]) -> frozenset[Number]:
    """Set each number to its new size, if all that was cut by it has the same; note it, and return those that changed.

    The notes are an attribute of the model, which ``whole_or_not_at_all`` puts back like any other.
    """
    modules = dict(model.named_modules())
    agreed = {number: min(found) for number, found in sizes.items() if len(found) == 1}
    now = {number: vars(modules[number.module]).get(number.name) for number in agreed}
    changed = {number: size for number, size in agreed.items() if type(now[number]) is int and 0 < size < now[number]}
    for number, size in changed.items():
        vars(modules[number.module])[number.name] = size
    _note(model, changed)
    return frozenset(changed)


def noted_numbers(model: nn.Module) -> Numbers:
    """Return the numbers that have become smaller."""
    return model.__dict__.get(NOTED, {})


def fit_numbers_(model: nn.Module, numbers: Numbers) -> None:
    """Set the numbers of a dense model to those of a slimmed one.

    Raises:
        ValueError: the model has no such number, or a smaller one.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for module, own in numbers.items():
        for name, value in own.items():
            known = module in modules and name in _numbers_of(modules[module])
            old = vars(modules[module])[name] if known else None
            if old is None or type(value) is not int or not 0 < value <= old:
                must = f"{module}.{name}".lstrip(".")[:80] + f" was slimmed to {str(value)[:80]}"
                raise ValueError(f"{must} and must be a number at least as large in the model, got {old}")
            vars(modules[module])[name] = value
    _note(model, {Number(module, name): value for module, own in numbers.items() for name, value in own.items()})


def _numbers_of(module: nn.Module) -> list[str]:
    if type(module).__module__.partition(".")[0] in OTHERS:
        return []
    return [name for name, value in vars(module).items() if type(value) is int]


def _note(model: nn.Module, changed: Mapping[Number, int]) -> None:
    noted = {module: dict(own) for module, own in noted_numbers(model).items()}
    for number, size in changed.items():
        noted.setdefault(number.module, {})[number.name] = size
    if noted:
        model.__dict__[NOTED] = noted
