"""The model with the winners, held against the dense ones: what wins alone may lose in the model."""

from dataclasses import replace
from statistics import median

from torch import nn

from smart_kernels.convert.measure import Cost, cost, settle, time_models
from smart_kernels.convert.modules import swap_, twin
from smart_kernels.nn import sparse_layer

from .report import LayerReport
from .select import Selected
from .settings import Settings

KINDS = ("chosen", "rival", "plain")  # attributes of Selected

Weights = dict[tuple[str, ...], Selected]  # by the names of the layers that share one


def settle_(
    model: nn.Module, selected: Weights, example_input, settings: Settings
) -> tuple[tuple[LayerReport, ...], Cost, Cost]:
    """Swap the layers for the winners, or for the dense ones where the whole model is faster so.

    Returns:
        the lines of the layers, what the fastest dense model costs, and what the model costs now.
    """
    before = cost(model, example_input)
    models = {kind: _with(twin(model), selected, kind) for kind in _different(selected)}
    times = time_models(models, example_input, settings.seconds, settings.cuda_graph)
    kind = settle(times, settings.policy)
    ms = {name: 1e3 * median(rounds) for name, rounds in times.items()}
    dense_ms = min(ms[name] for name in models if not any(_all(selected, name, "sparse")))
    after = replace(cost(_with(model, selected, kind), example_input), ms=ms[kind])
    return tuple(_report(each, kind) for each in selected.values()), replace(before, ms=dense_ms), after


def _different(selected: Weights) -> list[str]:
    """Return the kinds without those that equal an earlier one."""
    choices = [_all(selected, kind, "choice") for kind in KINDS]
    return [kind for i, kind in enumerate(KINDS) if choices[i] not in choices[:i]]


def _all(selected: Weights, kind: str, attribute: str) -> list:
    return [getattr(getattr(each, kind).report, attribute) for each in selected.values()]


def _report(each: Selected, kind: str) -> LayerReport:
    report = getattr(each, kind).report
    if report.choice == each.chosen.report.choice:
        return report
    loss = f"{each.chosen.report.choice} loses in the whole model"
    return replace(report, note="; ".join(filter(None, [report.note, loss])))


def _with(model: nn.Module, selected: Weights, kind: str) -> nn.Module:
    """Swap the layers of the model for their outcomes of a kind."""
    for names, each in selected.items():
        format = getattr(each, kind).format
        if format is not None:
            layers = [model.get_submodule(name) for name in names]
            swap_(model, {layer: sparse_layer(layer, format) for layer in layers})
    return model
