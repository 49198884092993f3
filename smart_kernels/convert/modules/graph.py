"""Which BatchNorm follows which layer, who uses a weight, and running a model to find out more."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch.fx
from torch import Tensor, nn

BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def following_batchnorms(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """Find layers whose output goes into a BatchNorm and nowhere else, both called once, with that BatchNorm.

    Read off the traced graph; where tracing fails, off those of the submodules.
    """
    try:
        graph = torch.fx.symbolic_trace(model).graph
    except Exception:  # tracing runs the user's forward, which may raise anything
        return {layer: norm for child in model.children() for layer, norm in following_batchnorms(child).items()}
    called = {node: model.get_submodule(node.target) for node in graph.nodes if node.op == "call_module"}
    once = [module for module, times in Counter(called.values()).items() if times == 1]
    read = {node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}  # weights read directly
    pairs: dict[nn.Module, nn.Module] = {}
    for node, module in called.items():
        source = node.args[0] if node.args else None
        if not isinstance(module, BATCHNORMS) or source not in called or {node.target, source.target} & read:
            continue
        if len(source.users) == 1:
            pairs[called[source]] = module
    return {layer: norm for layer, norm in pairs.items() if layer in once and norm in once}


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
    """Run the model on its positional or keyword arguments.

    Raises:
        ValueError: there are none.
    """
    if example_input is None:
        raise ValueError("example_input must be a tensor, a tuple or a dict of arguments, got None")
    if isinstance(example_input, dict):
        return model(**example_input)
    return model(*example_input) if isinstance(example_input, tuple | list) else model(example_input)


def inputs_of(model: nn.Module, layers: list[nn.Module], example_input) -> dict[nn.Module, Tensor]:
    """Return the largest input that each layer gets in one forward."""
    inputs: dict[nn.Module, Tensor] = {}

    def keep(module, args):
        if module not in inputs or args[0].numel() > inputs[module].numel():
            inputs[module] = args[0].detach().clone()

    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it reads weights without calling the layers
    try:
        with torch.no_grad(), evaluating(model):
            call(model, example_input)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
    return inputs
