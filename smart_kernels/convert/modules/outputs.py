"""The tensors that a model returns, wherever they hide."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass

import numpy as np
from torch import Tensor, nn

OPAQUE = (str, bytes, int, float, complex, type(None), type, nn.Module, np.ndarray)  # not looked into


def tensors_in(value) -> list[Tensor]:
    """Return the tensors in a value, in order, each place once.

    Looked into are mappings, sequences, sets, iterators (which are used up), dataclasses and the attributes of other
    objects, at any depth. Modules, classes and functions hold no outputs.
    """
    found: list[Tensor] = []
    _collect(value, found, set())
    return found


def _collect(value, found: list[Tensor], above: set[int]) -> None:
    if isinstance(value, Tensor):
        found.append(value)
    elif not isinstance(value, OPAQUE) and id(value) not in above:
        for part in _parts(value):
            _collect(part, found, above | {id(value)})


def _parts(value) -> Iterable:
    if isinstance(value, Mapping):
        return value.values()
    if is_dataclass(value):
        return [getattr(value, field.name, None) for field in fields(value)]
    if isinstance(value, Iterable):
        return value
    slots = [name for cls in type(value).__mro__ for name in _slots(cls)]
    attributes = {} if callable(value) else getattr(value, "__dict__", {})
    return [*attributes.values(), *(getattr(value, name, None) for name in slots)]


def _slots(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return () if cls.__module__ == "builtins" else tuple(name for name in names if not name.startswith("__"))
