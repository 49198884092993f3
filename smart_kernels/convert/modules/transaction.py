"""A change to a model that either happens whole or not at all."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


class Snapshot:
    """Remember a model as it is at one moment, without copies of its tensors.

    Remembered are, for each module, its class, attributes, parameters, buffers, submodules and hooks, all as the same
    objects; for each parameter, buffer and gradient, the memory that holds its values, and ``requires_grad``. Whoever
    is about to write into a tensor in place calls ``keep`` first.
    """

    def __init__(self, model: nn.Module):
        self._modules = {module: (module.__class__, _contents(module)) for module in model.modules()}
        self._tensors = {id(t): (t, t.data) for t in _tensors(model) if not t.is_inference()}
        self._leaves = [(p, p.requires_grad, p.grad) for p in model.parameters() if not is_lazy(p) and p.is_leaf]
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(self, *tensors: Tensor | None) -> None:
        """Copy the values of tensors that are about to change in place, into the memory of the CPU.

        None, what is kept already and what has no values are left out.
        """
        for tensor in tensors:
            if tensor is not None and id(tensor) not in self._kept and not is_lazy(tensor) and not tensor.is_meta:
                self._kept[id(tensor)] = (tensor, tensor.detach().to("cpu", copy=True))

    def put_back(self, modules: Iterable[nn.Module] | None = None) -> None:
        """Give modules their classes, attributes, parameters, buffers, submodules and hooks back; default: all."""
        for module in self._modules if modules is None else modules:
            cls, contents = self._modules[module]
            if module.__class__ is not cls:
                module.__class__ = cls
            for container, content in contents:
                container.clear()
                (container.extend if isinstance(container, list) else container.update)(content)

    def restore(self) -> None:
        """Make the model what it was, values included."""
        self.put_back()
        for tensor, data in self._tensors.values():
            tensor.data = data
        for leaf, learns, grad in self._leaves:
            leaf.requires_grad_(learns)
            if leaf.grad is not grad:
                leaf.grad = grad
        with torch.no_grad():
            for tensor, values in self._kept.values():
                tensor.copy_(values)


@contextmanager
def whole_or_not_at_all(model: nn.Module) -> Iterator[Snapshot]:
    """Make ``model`` what it was, should an error leave the block; in ``inference_mode``, what is made can be trained.

    Yields:
        the snapshot; tell its ``keep`` before writing into a tensor in place.
    """
    with _able_to_learn():
        before = Snapshot(model)
        try:
            yield before
        except BaseException:
            before.restore()
            raise
        finally:
            torch.clear_autocast_cache()


@contextmanager
def lent(model: nn.Module) -> Iterator[nn.Module]:
    """Make ``model`` what it was in the end, whatever the block makes of it by replacing tensors and modules."""
    before = Snapshot(model)
    try:
        yield model
    finally:
        before.restore()


@contextmanager
def _able_to_learn() -> Iterator[None]:
    """Leave ``inference_mode``, whose tensors are lost for training, but not ``no_grad``."""
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        yield


def _contents(module: nn.Module) -> list[tuple]:
    """Return the containers of a module with copies; the containers stay, since handles of hooks refer to them."""
    own = [value for value in vars(module).values() if type(value) in (dict, list, OrderedDict, set)]
    return [(container, container.copy()) for container in (vars(module), *own)]


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Yield buffers, parameters and their gradients; those that lazy modules have not made yet hold nothing."""
    for tensor in (*model.buffers(), *model.parameters()):
        if is_lazy(tensor):
            continue
        yield tensor
        if tensor.is_leaf and tensor.grad is not None:
            yield tensor.grad
