"""The model with the winners, held against the dense ones: what wins alone may lose in the model."""

import copy
from dataclasses import replace
from statistics import median

from torch import nn

from smart_kernels.convert.measure.choice import settle
from smart_kernels.convert.measure.compare import in_turns
from smart_kernels.convert.measure.cost import Cost, cost
from smart_kernels.convert.modules.swap import swap_

from .plan import wrap
from .report import Row
from .select import Selected
from .settings import Settings

KINDS = ("chosen", "rival", "plain")  # attributes of Selected

Weights = dict[tuple[str, ...], Selected]  # by the names of the layers that share one


def settle_(
    model: nn.Module, selected: Weights, example_input, settings: Settings
) -> tuple[tuple[Row, ...], Cost, Cost]:
    """Swap the layers for the winners, or for the dense ones where the whole model is faster so.

    Returns:
        the rows, what the fastest dense model costs, and what the model costs now.
    """
    before = cost(model, example_input)
    models = {kind: _with(_twin(model), selected, kind) for kind in _different(selected)}
    times = in_turns(models, example_input, settings.seconds, settings.cuda_graph)
    kind, ms = settle(times, settings.policy), {name: 1e3 * median(rounds) for name, rounds in times.items()}
    dense_ms = min(ms[name] for name in models if not any(_rows(selected, name, "sparse")))
    after = replace(cost(_with(model, selected, kind), example_input), ms=ms[kind])
    return tuple(_row(each, kind) for each in selected.values()), replace(before, ms=dense_ms), after


def _different(selected: Weights) -> list[str]:
    """The kinds without those that equal an earlier one."""
    choices = [_rows(selected, kind, "choice") for kind in KINDS]
    return [kind for i, kind in enumerate(KINDS) if choices[i] not in choices[:i]]


def _rows(selected: Weights, kind: str, attribute: str) -> list:
    return [getattr(getattr(each, kind).row, attribute) for each in selected.values()]


def _row(each: Selected, kind: str) -> Row:
    row = getattr(each, kind).row
    if row.choice == each.chosen.row.choice:
        return row
    return replace(row, note="; ".join(filter(None, [row.note, f"{each.chosen.row.choice} loses in the whole model"])))


def _twin(model: nn.Module) -> nn.Module:
    """A copy of the modules that shares their tensors."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def _with(model: nn.Module, selected: Weights, kind: str) -> nn.Module:
    """The model, its layers swapped."""
    for names, each in selected.items():
        format = getattr(each, kind).format
        if format is not None:
            layers = [model.get_submodule(name) for name in names]
            swap_(model, {layer: wrap(format, layer) for layer in layers})
    return model
