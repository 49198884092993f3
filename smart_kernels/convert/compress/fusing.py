"""What a model lets its layers do in one launch: found by running it with layers that wait for what follows."""

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from smart_kernels.convert.modules import call, evaluating, tensors_in, watch_calls
from smart_kernels.nn import Epilogue, Joined, Sparse, SparseLinear, Waiting, joined, settled

from .report import LayerReport

logger = logging.getLogger("smart_kernels")
Rows = tuple[LayerReport, ...]


class Follow:
    """Stands for the epilogue of layers while the model is run, and notes what it is.

    Attributes:
        residual: whatever is added is waited for.
        found: what each layer has computed; None where it could not wait.
        calls: how often each layer was called.
    """

    residual = True

    def __init__(self) -> None:
        self.found: dict[nn.Module, list[Epilogue | None]] = defaultdict(list)
        self.calls: Counter[nn.Module] = Counter()

    def ends_with(self, activation: str | None, residual: bool) -> bool:
        """Return whether nothing more is waited for."""
        return activation is not None

    def seen(self, layer: nn.Module, activation: str | None, residual: bool) -> None:
        """Note what a layer has computed."""
        self.found[layer].append(Epilogue(activation, residual))

    def spoiled(self, layer: nn.Module) -> None:
        """Note that somebody has written into what a layer would have read later."""
        self.found[layer].append(None)

    def count(self, layer: nn.Module, args: tuple, y: Tensor) -> None:
        """Note a call that waits."""
        self.calls[layer] += type(y) is Waiting

    def epilogues(self) -> dict[nn.Module, Epilogue]:
        """Return the layers that had the same epilogue, and no other reader, at every call."""
        same = {layer: found[0] for layer, found in self.found.items() if len(set(found)) == 1 and found[0]}
        return {layer: each for layer, each in same.items() if len(self.found[layer]) == self.calls[layer]}


@torch.no_grad()
def epilogues_of(model: nn.Module, layers: Iterable[Sparse], example_input) -> dict[nn.Module, Epilogue]:
    """Run the model once and return what follows each layer."""
    layers = list(layers)
    follow = Follow()
    hooks = [layer.register_forward_hook(follow.count) for layer in layers]
    for layer in layers:
        layer.epilogue = follow
    try:
        with evaluating(model):
            settled(tensors_in(call(model, example_input)))  # who gets the output reads it
    finally:
        for layer, hook in zip(layers, hooks, strict=True):
            hook.remove()
            del layer.epilogue
    return follow.epilogues()


def together(model: nn.Module, layers: list[nn.Module], example_input) -> list[tuple[nn.Module, ...]]:
    """Run the model once and return the layers that read one tensor, one after the other, at every call."""
    runs: list[tuple[Tensor, list[nn.Module]]] = []

    def see(layer: nn.Module, x: Tensor) -> None:
        if runs and runs[-1][0] is x:
            runs[-1][1].append(layer)
        else:
            runs.append((x, [layer]))

    watch_calls(model, layers, example_input, see)
    own: dict[nn.Module, set[tuple[nn.Module, ...]]] = defaultdict(set)
    for _, run in runs:
        for layer in run:
            own[layer].add(tuple(run))
    groups = dict.fromkeys(tuple(run) for _, run in runs)
    return [g for g in groups if len(set(g)) == len(g) > 1 and all(own[layer] == {g} for layer in g)]


def fusions(model: nn.Module, rows: Rows, example_input) -> Rows:
    """Return the lines of a model's layers with what each of them can do in its launch.

    Args:
        model: with the layers that the lines say.
        rows: without fusions.
        example_input: what to run it on, twice.
    """
    named = {row.name: model.get_submodule(row.name) for row in rows if not row.shared}
    lines = {named[row.name]: row for row in rows if row.name in named}
    sparse = [layer for layer in lines if isinstance(layer, Sparse) and not layer.format.dense]
    linear = [layer for layer in sparse if type(layer) is SparseLinear]
    for group in together(model, linear, example_input):
        for part in _alike(group):
            if _fit(part, tile_of([lines[layer] for layer in part])):
                names = tuple(lines[layer].name for layer in part)
                lines |= {layer: replace(lines[layer], joined=names) for layer in part}
    alone = [layer for layer in sparse if layer.format.fuses() and not lines[layer].joined]
    for layer, epilogue in epilogues_of(model, alone, example_input).items():
        lines[layer] = replace(lines[layer], **epilogue._asdict())
    return tuple(lines[named[row.name]] if row.name in named else row for row in rows)


def _alike(group: tuple[nn.Module, ...]) -> list[list[nn.Module]]:
    """Return the layers of a group that are stored alike, where there are several."""
    parts: dict[tuple, list[nn.Module]] = defaultdict(list)
    for layer in group:
        format = layer.format
        parts[type(format), tuple(format.options().items()), format.values.dtype].append(layer)
    return [part for part in parts.values() if len(part) > 1]


def tile_of(rows: Iterable[LayerReport]) -> tuple[int, int] | None:
    """Return the largest tile of which those of all lines consist, or None where one has none."""
    tiles = [row.tile for row in rows]
    return None if None in tiles else tuple(math.gcd(*sizes) for sizes in zip(*tiles, strict=True))


def _fit(layers: list[nn.Module], tile: tuple[int, int] | None) -> bool:
    try:
        joined(layers, tile)
    except ValueError as error:
        logger.debug("%d layers that read the same stay apart: %s", len(layers), error)
        return False
    return True


def fuse_(model: nn.Module, rows: Rows) -> None:
    """Let the layers do what their lines say, as far as they are sparse."""
    modules = dict(model.named_modules(remove_duplicate=False))
    lines = {row.name: row for row in rows}
    for row in rows:
        layer = modules.get(row.name)
        epilogue = Epilogue(row.activation, row.residual)
        if epilogue and isinstance(layer, Sparse):
            layer.epilogue = epilogue
        if row.joined[:1] == (row.name,) and lines.keys() >= set(row.joined):
            _join_([modules[name] for name in row.joined if name in modules], tile_of(lines[n] for n in row.joined))


def _join_(layers: list[nn.Module], tile: tuple[int, int] | None) -> None:
    """Let layers be computed together, unless a device or a damaged file has left them unlike each other."""
    sparse = len(set(layers)) == len(layers) > 1 and all(type(layer) is SparseLinear for layer in layers)
    if not sparse or _alike(tuple(layers)) != [layers] or len({layer.in_features for layer in layers}) > 1:
        return
    if _fit(layers, tile):
        together = Joined(layers, tile)
        for layer in layers:
            layer.joined = together


def fusions_of(model: nn.Module, layer: Sparse) -> dict:
    """Return the entries of a line that say what the launch of a layer does besides its product."""
    names = {module: name for name, module in model.named_modules()}
    together = getattr(layer, "joined", None)
    found = (layer.epilogue or Epilogue())._asdict()
    return found | {"joined": () if together is None else tuple(names[each] for each in together.layers)}
