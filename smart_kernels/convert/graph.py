"""Which BatchNorm follows which layer, who uses a weight, and running a model to find out more."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch.fx
from torch import nn

BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def following_batchnorms(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """Layers whose output goes into a BatchNorm and nowhere else, with that BatchNorm.

    Read off the traced graph; where tracing fails, off neighbours in ``nn.Sequential``.
    """
    try:
        graph = torch.fx.symbolic_trace(model).graph
    except Exception:  # tracing runs the user's forward, which may raise anything
        return _neighbours(model)
    modules = dict(model.named_modules())
    pairs: dict[nn.Module, nn.Module] = {}
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], BATCHNORMS):
            continue
        (source,) = node.args[:1]
        if source.op == "call_module" and len(source.users) == 1:
            pairs[modules[source.target]] = modules[node.target]
    return pairs


def _neighbours(model: nn.Module) -> dict[nn.Module, nn.Module]:
    pairs = {}
    for sequence in model.modules():
        if isinstance(sequence, nn.Sequential):
            layers = list(sequence)
            pairs |= {a: b for a, b in pairwise(layers) if isinstance(b, BATCHNORMS)}
    return pairs


def users_of_weights(model: nn.Module) -> dict[int, list[str]]:
    """id of a Parameter -> the names of the modules that hold it themselves."""
    users: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            users.setdefault(id(parameter), []).append(name)
    return users


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode; afterwards each module is in its own mode again."""
    training = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, mode in training.items():
            module.training = mode


def call(model: nn.Module, example_input):
    """The model on its positional or keyword arguments."""
    if isinstance(example_input, dict):
        return model(**example_input)
    return model(*example_input) if isinstance(example_input, tuple | list) else model(example_input)
