"""``compress_``: every layer of a pruned model becomes what runs it fastest, by measurement."""

import copy
import logging
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor, nn

from smart_kernels.nn import Masked
from smart_kernels.nn.sparse_base import Sparse, matrix

from .agree import agrees
from .candidates import BACKENDS, DENSE, Zeros, candidates
from .cost import Cost, cost
from .fold import fold_batchnorm_
from .graph import call, evaluating, users_of_weights
from .notes import absent, left_dense
from .plan import weight_shape, wrap
from .report import Report, Row
from .swap import swap_
from .timing import choose, device_name, measure

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
) -> Report:
    """Make a pruned model fast, in place: each layer keeps the backend that wins on its own input.

    Works on anybody's pruned model: zeros in plain ``nn.Linear`` and ``nn.Conv2d`` are what counts. Candidates are
    timed interleaved; a sparse one has to win by more than the spread. A layer that stays dense stays a plain module.
    With ``backends=DENSE`` the same call builds the best dense model, the baseline to compare with. What is free both
    get: BatchNorms in evaluation mode are folded into the layer in front, convolutions put into channels_last.

    Args:
        model: on the device it will run on. Layers compressed before are chosen again.
        example_input: tensor, tuple of positional or dict of keyword arguments, shaped like the real input.
        pattern: what was pruned together; default: the largest tile that explains the zeros.
        backends: names out of ``BACKENDS``; default all.
        policy: ``"speed"``, or ``"size"`` to keep sparse storage where it loses, too.
        seconds: how long at most to repeat the comparison of one layer while its ratios have not settled.

    Returns:
        The choice and its numbers per layer; ``print`` shows a table.

    Raises:
        ValueError: the model is wrapped, still masked, itself a single layer, or an argument is unknown.
    """
    settings = {"pattern": pattern and str(pattern), "backends": backends and list(backends), "policy": policy}
    backends = _checked(model, backends, policy)
    for module in {m for m in model.modules() if isinstance(m, Sparse)}:
        swap_(model, {module: module.to_dense()})
    fold_batchnorm_(model)
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        model.to(memory_format=torch.channels_last)
    groups, rows, swaps, kernels = _weights(model), [], {}, set()
    inputs = _captured(model, [layers[0] for layers in groups.values()], example_input)
    for names, layers in groups.items():
        zeros = Zeros.of(layers[0], pattern)
        row, chosen = _choose(names, layers, inputs.get(layers[0]), zeros, pattern, backends, policy, seconds)
        rows.append(row)
        swaps |= chosen
        kernels |= zeros.kernels if "nm" in backends else set()
    device = next(model.parameters()).device
    before, after = _swapped(model, swaps, example_input, device, seconds)
    return Report(
        tuple(rows),
        device_name(device),
        absent=absent(backends, device, kernels),
        settings=settings,
        before=before,
        after=after,
    )


def _choose(names, layers, x, zeros, pattern, backends, policy, seconds) -> tuple[Row, dict[nn.Module, nn.Module]]:
    """The row of one weight and what replaces its layers."""
    layer = layers[0]
    weight = matrix(layer)
    kept = (weight != 0).sum().item() / weight.numel()
    row = Row(names[0], tuple(weight_shape(layer)), kept, zeros.tile, shared=tuple(names[1:]))
    if x is None:
        return replace(row, note="not called: left as it is"), {}
    modules = candidates(zeros, backends)  # outside of inference mode: what is built here trains later
    with torch.inference_mode():
        modules, wrong = _agreeing(modules, x)
        calls = {name: (lambda module=module: module(x)) for name, module in modules.items()}
        note = "; ".join(filter(None, [wrong, left_dense(layer, pattern)]))
        times = measure(calls, DENSE, x.device, seconds) if len(calls) > 1 else {}
    if not times:
        return replace(row, note=note), {}
    choice = choose(times, DENSE, policy)
    winner = modules[choice.name]
    row = replace(
        row,
        choice=choice.name.split()[0],
        options=winner.format.options() if isinstance(winner, Sparse) else {},
        baseline=choice.baseline,
        dense_ms=median(times[choice.baseline]) * 1e3,
        ms=median(times[choice.name]) * 1e3,
        spread=choice.spread,
        pairs=len(times["dense"]),
        note=note,
    )
    return row, {} if winner is layer else {each: wrap(winner.format, each) for each in layers}


def _swapped(model, swaps, example_input, device, seconds) -> tuple[Cost, Cost]:
    """Swap the layers; what the dense model, as it is now, cost before and costs after."""
    before, plain = cost(model, example_input), copy.deepcopy(model) if swaps else model
    swap_(model, swaps)
    with evaluating(plain), evaluating(model), torch.inference_mode():
        runs = {"dense": lambda: call(plain, example_input), "now": lambda: call(model, example_input)}
        times = measure(runs, ("dense", "now"), device, seconds)
    ms = {name: 1e3 * median(times[name]) for name in runs}
    return replace(before, ms=ms["dense"]), replace(cost(model, example_input), ms=ms["now"])


def _agreeing(modules: dict[str, nn.Module], x: Tensor) -> tuple[dict[str, nn.Module], str]:
    """The candidates whose output is the dense one, and a line about the others."""
    exact = modules["dense"](x)
    differ = [name for name, module in modules.items() if not agrees(module(x), exact)]
    good = {name: module for name, module in modules.items() if name == "dense" or name not in differ}
    return good, f"output differs: {', '.join(differ)}" if differ else ""


def _weights(model: nn.Module) -> dict[tuple[str, ...], list[nn.Module]]:
    """Linears and Conv2ds by weight: the names and the modules that share it."""
    users, modules = users_of_weights(model), dict(model.named_modules())
    groups: dict[tuple[str, ...], list[nn.Module]] = {}
    for module in modules.values():
        if type(module) in LAYERS:
            names = tuple(users[id(module.weight)])
            groups[names] = [modules[name] for name in names]
    for names in [names for names, layers in groups.items() if len({type(layer) for layer in layers}) > 1]:
        logger.warning("the weight of %s stays dense: it has users of several kinds", ", ".join(names))
        del groups[names]
    return groups


def _captured(model: nn.Module, layers: list[nn.Module], example_input) -> dict[nn.Module, Tensor]:
    """The largest input each layer gets in one forward."""
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


def _checked(model: nn.Module, backends: tuple[str, ...] | None, policy: str) -> tuple[str, ...]:
    wrapper = next((cls.__name__ for m in model.modules() for cls in type(m).__mro__ if cls.__name__ in WRAPPERS), None)
    if wrapper:
        raise ValueError(f"compress_ needs the plain model, got one in {wrapper}: unwrap, compress, wrap again")
    if isinstance(model, (*LAYERS, Sparse)):
        raise ValueError("compress_ replaces layers inside a model, got a single layer: put it into nn.Sequential")
    if any(isinstance(module, Masked) for module in model.modules()):
        raise ValueError("compress_ needs plain layers, got masked ones: call finalize() or unmask_(model) first")
    if policy not in ("speed", "size"):
        raise ValueError(f"policy must be 'speed' or 'size', got {policy!r}")
    backends = BACKENDS if backends is None else tuple(backends)
    unknown = set(backends) - set(BACKENDS)
    if unknown:
        raise ValueError(f"backends must be out of {BACKENDS}, got {sorted(unknown)}")
    return backends
