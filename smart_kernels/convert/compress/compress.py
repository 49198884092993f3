"""``compress_``: every layer of a pruned model becomes what runs it fastest, by measurement."""

import logging

import torch
from torch import nn

from smart_kernels.convert.measure import device_name
from smart_kernels.convert.modules import device_of, fold_batchnorm_, inputs_of, swap_, users_of_weights
from smart_kernels.nn import Masked, Sparse

from .alike import Memory
from .explain import zeros_of
from .original import Original
from .report import Report
from .select import Selected, lacking, select
from .settings import Settings
from .whole import settle_

logger = logging.getLogger("smart_kernels")
LAYERS = (nn.Linear, nn.Conv2d)
WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel", "DataParallel", "FSDPModule")


def compress_(
    model: nn.Module,
    example_input,
    pattern=None,
    backends: tuple[str, ...] | None = None,
    policy: str = "speed",
    seconds: float = 0.5,
    cuda_graph: bool = False,
) -> Report:
    """Make a pruned model fast, in place: each layer keeps the backend that wins on its own input.

    Works on anybody's pruned model: zeros in plain ``nn.Linear`` and ``nn.Conv2d`` are what counts. Candidates are
    timed interleaved; a sparse one has to win by more than the spread. A layer that stays dense stays a plain module.
    Of layers that are alike, in sizes, input and zeros, one is measured, unless its choice was a close one.
    What is free all get: BatchNorms in evaluation mode are folded into the layer in front, convolutions put into
    channels_last. In the end the whole model is timed beside the dense ones and beside itself as it came, and is one of
    those where that is faster: then nothing is folded and each tensor is where it was.
    With ``backends=DENSE`` the same call builds the best dense model, the baseline to compare with.

    Needs memory for the candidates of one layer at a time, and until the end for the winners and for the old form of
    what was folded or put into channels_last.

    Args:
        model: on the device it will run on. Layers compressed before are chosen again.
        example_input: tensor, tuple of positional or dict of keyword arguments, shaped like the real input.
        pattern: what was pruned together; default: the largest tile that explains the zeros.
        backends: names out of ``BACKENDS``; default all.
        policy: ``"speed"``, or ``"size"`` to keep sparse storage where it loses, too.
        seconds: how long at most to repeat the comparison of one layer while its ratios have not settled.
        cuda_graph: the model will run in a CUDA graph: dense and sparse are timed in one each.

    Returns:
        The choice and its numbers per layer; ``print`` shows a table.

    Raises:
        ValueError: the model is wrapped, still masked, itself a single layer or without parameters, or an argument is
            unknown, or asks for CUDA graphs elsewhere.
    """
    settings = Settings(pattern, backends, policy, seconds, cuda_graph)
    _check(model)
    device = device_of(model)
    settings.check_device(device)
    original = Original(model)
    _prepare(model)
    selected, absent = _select(model, example_input, settings)
    rows, before, after = settle_(model, original, selected, example_input, settings)
    return Report(rows, device_name(device), absent=absent, settings=settings.to_dict(), before=before, after=after)


def _prepare(model: nn.Module) -> None:
    """Make it a plain model with all that may be faster for a dense one, too. Tensors are replaced, not written to."""
    for module in {m for m in model.modules() if isinstance(m, Sparse)}:
        swap_(model, {module: module.to_dense()})
    fold_batchnorm_(model)
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        model.to(memory_format=torch.channels_last)


def _select(
    model: nn.Module, example_input, settings: Settings
) -> tuple[dict[tuple[str, ...], Selected], tuple[str, ...]]:
    """Measure the layers, each on its own input.

    Returns:
        what each weight may end as, by the names of the layers that share it; and a line for each reason why something
        could not be tried on this device.
    """
    groups = _weights(model)
    inputs = inputs_of(model, [layers[0] for layers in groups.values()], example_input)
    selected: dict[tuple[str, ...], Selected] = {}
    absent: dict[str, None] = {}
    memory = Memory()
    for names, layers in groups.items():
        zeros = zeros_of(layers[0], settings.pattern)
        absent |= dict.fromkeys(lacking(zeros, settings.tried))
        shared = dict(zip(names, layers, strict=True))
        selected[names] = select(shared, zeros, inputs.get(layers[0]), settings, memory)
    return selected, tuple(absent)


def _weights(model: nn.Module) -> dict[tuple[str, ...], list[nn.Module]]:
    """Find the Linears and Conv2ds by weight: the names and the modules that share it."""
    users = users_of_weights(model)
    modules = dict(model.named_modules())
    groups: dict[tuple[str, ...], list[nn.Module]] = {}
    for module in modules.values():
        if type(module) in LAYERS:
            names = tuple(users[id(module.weight)])
            groups[names] = [modules[name] for name in names]
    for names in [names for names, layers in groups.items() if len({type(layer) for layer in layers}) > 1]:
        logger.warning("the weight of %s stays dense: it has users of several kinds", ", ".join(names))
        del groups[names]
    return groups


def _check(model: nn.Module) -> None:
    wrapper = next((cls.__name__ for m in model.modules() for cls in type(m).__mro__ if cls.__name__ in WRAPPERS), None)
    if wrapper:
        raise ValueError(f"compress_ needs the plain model, got one in {wrapper}: unwrap, compress, wrap again")
    if isinstance(model, (*LAYERS, Sparse)):
        raise ValueError("compress_ replaces layers inside a model, got a single layer: put it into nn.Sequential")
    if any(isinstance(module, Masked) for module in model.modules()):
        raise ValueError("compress_ needs plain layers, got masked ones: call finalize() or unmask_(model) first")
