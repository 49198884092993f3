"""The output of a layer whose epilogue is still to come: computed with it, in one launch, or without as soon as
anything else reads it."""

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .epilogue import Step, step_of

LOOKS = {"dim", "size", "numel", "ndimension", "__len__", "is_floating_point", "is_complex"}
ATTRIBUTES = {"shape", "dtype", "device", "ndim", "is_nested", "is_cuda", "is_cpu", "layout", "requires_grad"}


class Waiting(Tensor):
    """What a layer returns where ``layer.epilogue`` says what follows.

    It is a tensor of the right sizes without memory. The function that ends the epilogue returns the finished tensor;
    any other gets the plain output, computed then and kept. So whatever a model does the result is that of the plain
    layer. Only what the output depends on must not be written into meanwhile, which raises, where torch counts it (not
    under ``torch.inference_mode``).
    """

    @staticmethod
    def of(layer, x: Tensor, shape: tuple[int, ...]) -> "Waiting":
        """Return the output of a layer for x."""
        self = Tensor._make_wrapper_subclass(Waiting, shape, dtype=x.dtype, device=x.device)
        self.layer = layer
        self.expected = layer.epilogue
        self.read = (_held(x),)
        self.value = None
        return self

    def plus(self, other: Tensor) -> "Waiting":
        """Return the sum with another tensor."""
        total = Tensor._make_wrapper_subclass(Waiting, self.shape, dtype=self.dtype, device=self.device)
        total.__dict__.update(vars(self), read=(*self.read, _held(other)))
        return total

    def finished(self, activation: str | None = None) -> Tensor:
        """Compute ``activation(y + other)``.

        Raises:
            RuntimeError: the input or the other tensor has been written into since.
        """
        for tensor, version in self.read:
            if not tensor.is_inference() and tensor._version != version:
                self.expected.spoiled(self.layer)
        (x, _), *others = self.read
        other = others[0][0] if others else None
        self.expected.seen(self.layer, activation, other is not None)
        if not torch.is_grad_enabled():  # a context costs as much as all of this
            return self.layer.finished(x, activation, other)
        with torch.no_grad():
            return self.layer.finished(x, activation, other)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if _looks(function):
                return function(*args, **kwargs)
            step = step_of(function, args, kwargs)
            if step is not None and (taken := _taken(step)) is not None:
                return taken
            args, kwargs = settled((args, kwargs))
        return function(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args, kwargs = settled((args, kwargs or {}))
        return func(*args, **kwargs)

    def __deepcopy__(self, memo):
        return settled(self).__deepcopy__(memo)

    def __reduce_ex__(self, protocol):
        return settled(self).__reduce_ex__(protocol)


def settled(values):
    """Return values with the plain outputs in place of those that wait."""
    return tree_map(lambda value: _settled(value) if type(value) is Waiting else value, values)


def _settled(y: Waiting) -> Tensor:
    if y.value is None:
        y.value = y.finished()
        y.read = ()
    return y.value


def _taken(step: Step) -> Tensor | None:
    """Return the result of a step if it belongs to the epilogue of what it is called on."""
    if step.others:
        return next((total for y, other in step.others if (total := _sum(y, other, step.in_place)) is not None), None)
    y = step.y
    if type(y) is not Waiting or y.value is not None:
        return None
    if step.nothing:
        return y
    if not y.expected.ends_with(step.activation, len(y.read) > 1):
        return None
    result = y.finished(step.activation)
    if step.in_place:
        y.value = result
    return result


def _sum(y, other, in_place: bool) -> Tensor | None:
    if type(y) is not Waiting or y.value is not None or len(y.read) > 1 or not y.expected.residual or other is y:
        return None
    if other.shape != y.shape or other.dtype != y.dtype or other.device != y.device:
        return None
    if torch.is_grad_enabled() and other.requires_grad:
        return None
    total = y.plus(settled(other))
    result = total.finished() if total.expected.ends_with(None, True) else total
    if in_place:
        y.__dict__.update(vars(total)) if result is total else setattr(y, "value", result)
        return y if result is total else result
    return result


def _held(tensor: Tensor) -> tuple[Tensor, int]:
    return tensor, 0 if tensor.is_inference() else tensor._version


def _looks(function) -> bool:
    """Return whether a function asks for no more than sizes and kinds."""
    name = function.__name__
    return name in LOOKS or (name == "__get__" and getattr(function.__self__, "__name__", None) in ATTRIBUTES)
