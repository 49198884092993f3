"""The model with the winners, held against the dense ones and itself: what wins alone may lose in the model."""

import logging
from dataclasses import replace
from statistics import median

from torch import nn

from smart_kernels.convert.measure import Cost, cost, settle, time_models
from smart_kernels.convert.modules import Outputs, swap_, twin
from smart_kernels.nn import Sparse, sparse_layer

from .fusing import Rows, fuse_, fusions, fusions_of
from .original import Original
from .report import LayerReport
from .select import Selected
from .settings import Settings

KINDS = ("chosen", "rival", "plain")  # attributes of Selected
ORIGINAL = "original"  # the model as it came
FUSED = "fused"  # the winners, which do in their launches what the model does around them
logger = logging.getLogger("smart_kernels")

Weights = dict[tuple[str, ...], Selected]  # by the names of the layers that share one


def settle_(
    model: nn.Module, original: Original, selected: Weights, example_input, expected: Outputs, settings: Settings
) -> tuple[Rows, Cost, Cost]:
    """Swap the layers for the winners, or for the dense ones or what they came as where the whole model is faster so.

    Args:
        model: with plain layers, and with what is free for all.
        original: the model as it came. It is a candidate where it differs and stores nothing that is not to be tried.
        expected: what the model returns.

    Returns:
        the lines of the layers, what the fastest dense model costs, and what the model costs now.
    """
    before = cost(model, example_input)
    models = {kind: _with(twin(model), selected, kind) for kind in _different(selected)}
    if original.differs(model) and original.stored_as() <= set(settings.tried):
        models[ORIGINAL] = original.model
    fused = _fused(models["chosen"], selected, example_input)
    if fused is not None and _agrees(candidate := _finish(twin(model), original, selected, FUSED, fused)[0], expected):
        models[FUSED] = candidate
    times = time_models(models, example_input, settings.seconds, settings.cuda_graph)
    kind = settle(times, settings.policy)
    ms = {name: 1e3 * median(rounds) for name, rounds in times.items()}
    dense_ms = min(ms[name] for name, each in models.items() if _is_dense(each))
    _, rows = _finish(model, original, selected, kind, fused)
    after = replace(cost(model, example_input), ms=ms[kind])
    return rows, replace(before, ms=dense_ms), after


def _finish(
    model: nn.Module, original: Original, selected: Weights, kind: str, fused: Rows | None
) -> tuple[nn.Module, Rows]:
    """Make the model the one that won, and return it with the lines of its layers."""
    if kind == ORIGINAL:
        original.put_back_()
        return model, tuple(_as_it_came(model, each) for each in selected.values())
    if kind == FUSED:
        fuse_(_with(model, selected, "chosen"), fused)
        return model, fused
    return _with(model, selected, kind), tuple(_report(each, kind) for each in selected.values())


def _as_it_came(model: nn.Module, each: Selected) -> LayerReport:
    report = replace(each.plain.report, note=_joined(each.plain.report.note, "the model as it came is faster"))
    layer = model.get_submodule(report.name)
    if not isinstance(layer, Sparse):
        return report
    stored = {"choice": layer.format.name, "options": layer.format.options(), "ms": None}  # was not timed alone
    return replace(report, **stored, **fusions_of(model, layer))


def _fused(chosen: nn.Module, selected: Weights, example_input) -> Rows | None:
    """Return the lines of the winners with what they can do in their launches; None where that is nothing."""
    rows = tuple(each.chosen.report for each in selected.values())
    fused = fusions(chosen, rows, example_input) if any(row.sparse for row in rows) else rows
    return None if fused == rows else fused


def _agrees(model: nn.Module, expected: Outputs) -> bool:
    """Return whether a model runs and returns what it should."""
    try:
        difference = expected.changed(model)
        if expected.unknown:
            Outputs(model, expected.example_input)
    except RuntimeError as error:  # a view, say, of what is contiguous where each layer has memory of its own
        difference = str(error)
    if difference:
        logger.warning("layers are not fused with what follows them: %s", difference)
    return not difference


def _is_dense(model: nn.Module) -> bool:
    return all(module.format.dense for module in model.modules() if isinstance(module, Sparse))


def _different(selected: Weights) -> list[str]:
    """Return the kinds without those that equal an earlier one."""
    choices = [[getattr(each, kind).report.choice for each in selected.values()] for kind in KINDS]
    return [kind for i, kind in enumerate(KINDS) if choices[i] not in choices[:i]]


def _report(each: Selected, kind: str) -> LayerReport:
    report = getattr(each, kind).report
    if report.choice == each.chosen.report.choice:
        return report
    loss = f"{each.chosen.report.choice} loses in the whole model"
    return replace(report, note=_joined(report.note, loss))


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _with(model: nn.Module, selected: Weights, kind: str) -> nn.Module:
    """Swap the layers of the model for their outcomes of a kind."""
    for names, each in selected.items():
        format = getattr(each, kind).format
        if format is not None:
            layers = [model.get_submodule(name) for name in names]
            swap_(model, {layer: sparse_layer(layer, format) for layer in layers})
    return model
