"""``compress_``: every layer of a pruned model becomes what runs it fastest, by measurement."""

import logging

import torch
from torch import nn
from tqdm import tqdm

from smart_kernels.convert.measure import device_name
from smart_kernels.convert.modules import (
    LAYERS,
    Outputs,
    Snapshot,
    bake_torch_masks_,
    check_model,
    device_of,
    fold_proven_,
    inputs_of,
    left_alone,
    swap_,
    unfoldable,
    users_of_weights,
    whole_or_not_at_all,
)
from smart_kernels.nn import Masked, Sparse

from .agreeing import keep_what_agrees_
from .alike import Memory
from .candidates import lacking
from .explain import zeros_of
from .original import Original
from .report import Report
from .select import Selected, select
from .settings import Settings
from .whole import settle_

logger = logging.getLogger("smart_kernels")
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

    Works on anybody's pruned model: zeros in plain ``nn.Linear`` and ``nn.Conv2d`` are what counts, masks of
    ``torch.nn.utils.prune`` become zeros. Modules stay the same objects; hooks, names and attributes survive. What
    cannot be changed safely is left alone, with a line in the report. The output of the whole model is compared in the
    end: where it has changed by more than rounding, layers that change it are taken back. Candidates are
    timed interleaved; a sparse one has to win by more than the spread. A layer that stays dense stays a plain module.
    Of layers that are alike, in sizes, input and zeros, one is measured, unless its choice was a close one.
    What is free all get: BatchNorms in evaluation mode are folded into the layer in front, convolutions put into
    channels_last. In the end the whole model is timed beside the dense ones and beside itself as it came, and is one of
    those where that is faster: then nothing is folded and each tensor is where it was. Beside them
    stands the model whose sparse layers compute what follows them, activations and residuals, and together what reads
    one tensor, Q, K and V, as far as a run shows it: such a layer returns a tensor that is computed when it is read.
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
        cuda_graph: the model will run in a CUDA graph: dense and sparse are timed in one each. To capture it, call
            ``warmup(model, [x.shape])``, then ``with torch.no_grad(), torch.cuda.graph(graph): y = model(x)``, and for
            each input ``x.copy_(...)`` and ``graph.replay()``; x and y stay the same tensors.

    Returns:
        The choice and its numbers per layer; ``print`` shows a table.

    Raises:
        ValueError: the model is wrapped, still masked, itself a single layer or without parameters, or an argument is
            unknown, or asks for CUDA graphs elsewhere; or the output has changed. The model is as it was then, as
            after any other error.
    """
    settings = Settings(pattern, backends, policy, seconds, cuda_graph)
    _check(model)
    device = device_of(model)
    settings.check_device(device)
    with whole_or_not_at_all(model):
        expected = Outputs(model, example_input)
        bake_torch_masks_(model, list(model.modules()))
        original = Original(model, Snapshot(model))
        left = left_alone(model) | _prepare(model, example_input, expected)
        selected, absent = _select(model, example_input, settings, left)
        plain = Snapshot(model)
        rows, before, after = settle_(model, original, selected, example_input, expected, settings)
        if expected.changed(model):
            rows, after = keep_what_agrees_(model, plain, rows, expected, settings)
    if expected.unknown:
        absent += (f"the output of the whole model was not compared: {expected.unknown}",)
    costs = {"before": before, "after": after}
    return Report(rows, device_name(device), absent=absent, settings=settings.to_dict(), left=left, **costs)


def _prepare(model: nn.Module, example_input, expected: Outputs) -> dict[str, str]:
    """Make it a plain model with all that may be faster for a dense one, too. Tensors are replaced, not written to.

    Returns:
        the BatchNorms that stay, with the reasons.
    """
    for module in {m for m in model.modules() if isinstance(m, Sparse)}:
        swap_(model, {module: module.to_dense()})
    unfolded = Snapshot(model)
    left = unfoldable(model)
    if (folded := fold_proven_(model, example_input)) and (difference := expected.changed(model)):
        unfolded.restore()
        left |= dict.fromkeys(folded, f"with it folded, the model gives {difference}")
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        model.to(memory_format=torch.channels_last)
    return left


def _select(
    model: nn.Module, example_input, settings: Settings, left: dict[str, str]
) -> tuple[dict[tuple[str, ...], Selected], tuple[str, ...]]:
    """Measure the layers, each on its own input.

    Returns:
        what each weight may end as, by the names of the layers that share it; and a line for each reason why something
        could not be tried on this device.
    """
    groups = _weights(model, left)
    inputs = inputs_of(model, [layer for layers in groups.values() for layer in layers.values()], example_input)
    selected: dict[tuple[str, ...], Selected] = {}
    absent: dict[str, None] = {}
    memory = Memory()
    for layers in tqdm(groups.values(), "compress_", unit="layer", disable=None, leave=False):  # on terminals only
        shared = dict(sorted(layers.items(), key=lambda item: item[1] not in inputs))  # the first is measured
        first = next(iter(shared.values()))
        zeros = zeros_of(first, settings.pattern)
        absent |= dict.fromkeys(lacking(zeros, settings.tried))
        selected[tuple(shared)] = select(shared, zeros, inputs.get(first), settings, memory)
    return selected, tuple(absent)


def _weights(model: nn.Module, left: dict[str, str]) -> dict[int, dict[str, nn.Module]]:
    """Find the Linears and Conv2ds by weight: those that share it, by name.

    A weight that somebody uses who is none of those, or of whom there is a line in ``left``, is left out with a line.
    """
    users = users_of_weights(model)
    modules = dict(model.named_modules())
    groups: dict[int, dict[str, nn.Module]] = {}
    for name, module in modules.items():
        if type(module) not in LAYERS or name in left:
            continue
        sharing = {each: modules[each] for each in users[id(module.weight)]}
        others = [each for each, other in sharing.items() if type(other) is not type(module) or each in left]
        if others:
            left[name] = f"its weight has users of several kinds, {', '.join(others)} among them"
            logger.warning("%s stays dense: %s", name, left[name])
        else:
            groups.setdefault(id(module.weight), sharing)
    return groups


def _check(model: nn.Module) -> None:
    check_model(model, "compress_")
    if any(tensor.is_meta for tensor in model.parameters()):
        raise ValueError("compress_ looks at the weights, got some on the meta device, which holds none")
    wrapper = next((cls.__name__ for m in model.modules() for cls in type(m).__mro__ if cls.__name__ in WRAPPERS), None)
    if wrapper:
        raise ValueError(f"compress_ needs the plain model, got one in {wrapper}: unwrap, compress, wrap again")
    if isinstance(model, (*LAYERS, Sparse)):
        raise ValueError("compress_ replaces layers inside a model, got a single layer: put it into nn.Sequential")
    if any(isinstance(module, Masked) for module in model.modules()):
        raise ValueError("compress_ needs plain layers, got masked ones: call finalize() or unmask_(model) first")
