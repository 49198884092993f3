"""Who uses a weight, and running a model to find out what its layers get."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def users_of_weights(model: nn.Module) -> dict[int, list[str]]:
    """Map the id of each Parameter to the names of the modules that hold it themselves."""
    users: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            users.setdefault(id(parameter), []).append(name)
    return users


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put the model into eval mode; afterwards each module is in its own mode again."""
    training = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, mode in training.items():
            module.training = mode


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model.

    Raises:
        ValueError: it has no parameter that would say so.
    """
    first = next(model.parameters(), None)
    if first is None:
        raise ValueError(f"the model must have parameters, got none in {type(model).__name__}")
    return first.device


def call(model: nn.Module, example_input):
    """Run the model on its positional or keyword arguments, with its weights as they are by now.

    Raises:
        ValueError: there are none.
    """
    if example_input is None:
        raise ValueError("example_input must be a tensor, a tuple or a dict of arguments, got None")
    torch.clear_autocast_cache()  # of copies of weights that have changed since
    if isinstance(example_input, dict):
        return model(**example_input)
    return model(*example_input) if isinstance(example_input, tuple | list) else model(example_input)


def input_of(args: tuple, kwargs: dict) -> Tensor:
    """Return what a layer of one input was called with, in place or as ``input=``."""
    return args[0] if args else kwargs["input"]


def inputs_of(model: nn.Module, layers: list[nn.Module], example_input) -> dict[nn.Module, Tensor]:
    """Return the largest input that each layer gets in one forward."""
    inputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, x: Tensor) -> None:
        if module not in inputs or x.numel() > inputs[module].numel():
            inputs[module] = x.detach().clone()

    watch_calls(model, layers, example_input, keep)
    return inputs


def watch_calls(
    model: nn.Module, layers: list[nn.Module], example_input, see: Callable[[nn.Module, Tensor], None]
) -> None:
    """Run one forward in eval mode and show each call of the layers, with its input, before it happens."""

    def hook(module, args, kwargs):
        see(module, input_of(args, kwargs))

    hooks = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it reads weights without calling the layers
    try:
        with torch.no_grad(), evaluating(model):
            call(model, example_input)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for each in hooks:
            each.remove()
