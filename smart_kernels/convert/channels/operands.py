"""The arguments of an operator, however they were passed. See ``rules.py``."""

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

FIRST = ("input", "self", "tensors", "x")  # names of the first argument


def plain_name(function) -> str:
    """Return ``add`` for ``torch.add``, ``Tensor.add_``, ``Tensor.__add__`` and ``torch.ops.aten.add``."""
    return getattr(function, "__name__", type(function).__name__).split("::")[-1].strip("_")


def tensors_of(value) -> list[Tensor]:
    """Return the tensors in arguments or in what an operator returns."""
    return [t for t in tree_leaves(value) if isinstance(t, Tensor)]


def first(args, kwargs):
    """Return the first argument.

    Raises:
        ValueError: there is none.
    """
    if args:
        return args[0]
    for name in FIRST:
        if name in kwargs:
            return kwargs[name]
    raise ValueError(f"an operator's first argument must be positional or one of {FIRST}, got {list(kwargs)}")


def replaced(args, kwargs, new) -> tuple[tuple, dict]:
    """Return the arguments with ``new(tensor)`` for each tensor, without ``out``."""
    kwargs = {name: value for name, value in kwargs.items() if name != "out"}
    return tree_map(lambda x: new(x) if isinstance(x, Tensor) else x, (args, kwargs))


def written(function, args, inputs: list[Tensor], outputs: list[Tensor]) -> list[Tensor]:
    """Return the tensors that a call may have written into."""
    name = getattr(function, "__name__", "")
    if name == "__setitem__" or (name.endswith("_") and not name.endswith("__") and not outputs):
        return tensors_of(args[:1])
    return [t for t in outputs if any(t is x for x in inputs)]
