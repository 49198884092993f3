"""One layer: everything it could run as, measured, and the winner."""

from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor, nn

from smart_kernels.convert.measure import Choice, Times, choose, pair_ratio
from smart_kernels.formats import Format, Zeros
from smart_kernels.nn import weight_shape

from .alike import Likeness, Measured, Memory, likeness
from .candidates import Layer, candidates, dense_of, name_of, timed, tried
from .report import LayerReport
from .settings import Settings
from .usable import PLAIN, usable


@dataclass(frozen=True)
class Outcome:
    """A line of the report, and the format of the weight; None: the plain layer."""

    report: LayerReport
    format: Format | None = None


@dataclass(frozen=True)
class Selected:
    """The three outcomes a weight may end with: the winner, its best dense candidate, the plain layer."""

    chosen: Outcome
    rival: Outcome
    plain: Outcome


@dataclass(frozen=True)
class Subject:
    """Layers that share a weight, of which the first is measured on its input ``x``, and how their line begins."""

    report: LayerReport
    layers: list[Layer]
    zeros: Zeros
    x: Tensor
    like: Likeness


def select(
    layers: dict[str, Layer], zeros: Zeros, x: Tensor | None, settings: Settings, memory: Memory | None = None
) -> Selected:
    """Measure everything that the layers which share a weight could run as.

    Args:
        layers: plain ones by name; the first is measured.
        zeros: their weight, and what its zeros are made of.
        x: the input of the first, or None where the model does not call it.
        settings: how to choose.
        memory: layers of the same model that were measured before; a layer like one of them runs as it does.
    """
    layer = next(iter(layers.values()))
    name, *others = layers
    density = (zeros.weight != 0).sum().item() / max(zeros.weight.numel(), 1)
    report = LayerReport(name, tuple(weight_shape(layer)), density, zeros.tile, shared=tuple(others))
    if x is None:
        return _alone(replace(report, note="not called: left as it is"))
    if not zeros.weight.numel():
        return _alone(replace(report, note="without weights: left as it is"))
    report = replace(report, note=_left_dense(layer, settings))
    subject = Subject(report, [*layers.values()], zeros, x, likeness(layer, zeros, x))
    memory = Memory() if memory is None else memory
    seen = memory.find(subject.like)
    return (seen and _as_seen(subject, settings, seen)) or _measure(subject, settings, memory)


def _measure(subject: Subject, settings: Settings, memory: Memory) -> Selected:
    modules, notes = tried(subject.layers, subject.zeros, subject.x, settings)
    report = _noted(subject.report, *notes)
    if len(modules) == 1:
        return _alone(report)
    times = timed(modules, subject.x, settings)
    dense = dense_of(modules)
    choice = choose(times, dense, settings.policy)
    memory.add(Measured(report.name, subject.like, times, choice), dense)
    return _selected(report, times, choice, modules)


def _as_seen(subject: Subject, settings: Settings, seen: Measured) -> Selected | None:
    """Return the outcomes of a layer like this one; None where this one cannot run as that does."""
    wanted = {PLAIN, seen.choice.name, seen.choice.baseline}
    modules = candidates(subject.layers, subject.zeros, settings.tried, wanted)
    with torch.inference_mode():
        modules, _ = usable(modules, subject.x, settings.cuda_graph)
    if wanted != modules.keys():
        return None
    return _selected(_noted(subject.report, f"measured as {seen.name}"), seen.times, seen.choice, modules)


def _noted(report: LayerReport, *notes: str) -> LayerReport:
    return replace(report, note="; ".join(filter(None, [*notes, report.note])))


def _selected(report: LayerReport, times: Times, choice: Choice, modules: dict[str, nn.Module]) -> Selected:
    labels = (choice.name, choice.baseline, PLAIN)
    return Selected(*(_outcome(report, times, label, choice.baseline, modules[label]) for label in labels))


def _alone(report: LayerReport) -> Selected:
    """Return the outcomes where there is nothing to choose from."""
    return Selected(*[Outcome(report)] * 3)


def _outcome(report: LayerReport, times: Times, label: str, baseline: str, module: nn.Module) -> Outcome:
    format = getattr(module, "format", None)
    report = replace(
        report,
        choice=name_of(label),
        options={} if format is None else format.options(),
        baseline=baseline,
        dense_ms=median(times[baseline]) * 1e3,
        ms=median(times[label]) * 1e3,
        spread=pair_ratio(times[label], times[baseline])[1],
        pairs=len(times[PLAIN]),
    )
    return Outcome(report, format)


def _left_dense(layer: Layer, settings: Settings) -> str:
    """Return a line for the report where nothing here leaves out the zeros of a layer; else an empty one."""
    pattern = settings.pattern
    if pattern is not None and (note := pattern.storage(weight_shape(layer)).note):
        return f"{pattern}: {note}"
    if getattr(layer, "groups", 1) == 1 or (layer.weight != 0).all():
        return ""
    kind = "depthwise" if layer.groups == layer.in_channels else "grouped"
    return f"{kind} convolution: stays dense"
