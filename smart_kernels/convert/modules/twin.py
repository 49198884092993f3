"""A second model on the same tensors."""

import copy
from collections.abc import Iterator

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .swap import BASE

SIMPLE = (str, int, float, bool, type(None))


def twin(model: nn.Module, instead: dict[int, Tensor] | None = None) -> nn.Module:
    """Copy the modules of a model, not its tensors; what cannot be copied, such as a lock, both have.

    Args:
        model: any.
        instead: id of a Parameter or buffer -> what the copy has in its place; default: the same.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())} | (instead or {})
    modules = {id(module): module for module in model.modules()}
    for value in (value for module in model.modules() for value in _own(module)):
        shared |= {id(t): t for t in tree_leaves(value) if isinstance(t, Tensor)}
        try:
            copy.deepcopy(value, {**shared, **modules})
        except Exception:  # whatever the user's class raises
            shared[id(value)] = value
    return copy.deepcopy(model, shared)


def _own(module: nn.Module) -> Iterator:
    """Yield the attributes that the user has given a module, and its hooks; none of one that knows how it is copied."""
    if type(module).__getstate__ is not nn.Module.__getstate__:
        return
    for name, value in vars(module).items():
        if "hooks" in name and name in BASE and value:
            yield from value.values()
        elif name not in BASE and not isinstance(value, SIMPLE):
            yield value
