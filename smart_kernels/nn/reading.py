"""Weights that are computed when they are read: changing one would change a copy that nobody sees."""

import copy

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

HARMLESS = {"requires_grad_"}
OPERATORS = {f"__i{name}__" for name in ("add", "sub", "mul", "matmul", "div", "truediv", "floordiv", "mod", "pow")}
OPERATORS |= {"__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__", "__setitem__", "__set__"}


class Reading(Tensor):
    """A tensor that may be read like any other; writing into it, or into a view of it, is an error."""

    @staticmethod
    def of(tensor: Tensor) -> Tensor:
        """Return the tensor as a reading; in compiled code, which cannot hold one, as it is."""
        return tensor if torch.compiler.is_compiling() else tensor.as_subclass(Reading)

    def plain(self) -> Tensor:
        """Return the same tensor as one that may be written into."""
        with torch._C.DisableTorchFunctionSubclass():
            return self.as_subclass(Tensor)

    def __deepcopy__(self, memo):
        return copy.deepcopy(self.plain(), memo)

    def __reduce_ex__(self, protocol):
        return self.plain().__reduce_ex__(protocol)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        written = [next(iter((*args, *kwargs.values())), None), kwargs.get("out")]
        readings = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Reading)]
        with torch._C.DisableTorchFunctionSubclass():
            if _writes(function, kwargs) and any(isinstance(t, Reading) for t in tree_leaves(written)):
                raise RuntimeError(
                    f"this tensor of a sparse layer was computed to be read, and {function.__name__} would change "
                    "a copy: change the Parameters of the layer and its format, or make it dense by to_dense()"
                )
            memory = {t.untyped_storage()._cdata for t in readings}
            out = function(*args, **kwargs)
            return tree_map(lambda t: t.as_subclass(Reading) if _shares(t, memory) else t, out)


def _writes(function, kwargs: dict) -> bool:
    name = function.__name__
    in_place = name.endswith("_") and not name.endswith("__") and name not in HARMLESS
    return in_place or name in OPERATORS or "out" in kwargs


def _shares(value, memory: set[int]) -> bool:
    """Return whether a value is a tensor in that memory."""
    strided = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_nested
    return strided and value.untyped_storage()._cdata in memory
