"""One layer: everything it could run as, measured, and the winner."""

from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from smart_kernels.convert.measure import Times, agrees, choose, pair_ratio, timing
from smart_kernels.formats import FORMATS, Format, Zeros
from smart_kernels.nn import geometry, sparse_layer, weight_shape

from .report import LayerReport
from .settings import Settings

PLAIN = "dense"  # label of the layer itself

Layer = nn.Linear | nn.Conv2d


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


def select(layers: dict[str, Layer], zeros: Zeros, x: Tensor | None, settings: Settings) -> Selected:
    """Measure everything that the layers which share a weight could run as.

    Args:
        layers: plain ones by name; the first is measured.
        zeros: their weight, and what its zeros are made of.
        x: the input of the first, or None where the model does not call it.
        settings: how to choose.
    """
    layer = next(iter(layers.values()))
    name, *others = layers
    density = (zeros.weight != 0).sum().item() / zeros.weight.numel()
    report = LayerReport(name, tuple(weight_shape(layer)), density, zeros.tile, shared=tuple(others))
    if x is None:
        return _alone(replace(report, note="not called: left as it is"))
    modules = candidates(
        [*layers.values()], zeros, settings.tried
    )  # outside of inference mode: what is built here trains later
    dense = tuple(label for label in modules if FORMATS[name_of(label)].dense)
    with torch.inference_mode():
        modules, notes = _usable(modules, x, settings.cuda_graph)
        calls = {label: partial(module, x) for label, module in modules.items()}
        times = {}
        if len(calls) > 1:
            times = timing.time_in_turns(calls, dense, x.device, settings.seconds, settings.cuda_graph)
    report = replace(report, note="; ".join(filter(None, [*notes, _left_dense(layer, settings)])))
    if not times:
        return _alone(report)
    choice = choose(times, dense, settings.policy)
    labels = (choice.name, choice.baseline, PLAIN)
    return Selected(*(_outcome(report, times, label, choice.baseline, modules[label]) for label in labels))


def candidates(layers: list[Layer], zeros: Zeros, backends: tuple[str, ...]) -> dict[str, nn.Module]:
    """Build what a layer could run as, by label; what a format refuses is left out.

    Args:
        layers: plain ones that share a weight. The first is the candidate ``PLAIN``, and the only one where one of them
            has a geometry that no sparse layer has.
        zeros: the weight.
        backends: names of formats.
    """
    layer = layers[0]
    found: dict[str, nn.Module] = {PLAIN: layer}
    if not all(map(_has_sparse_form, layers)):
        return found
    for format in map(FORMATS.__getitem__, backends):
        for label, options in format.candidates(zeros):
            try:
                found[label] = sparse_layer(layer, format.from_zeros(zeros, **options))
            except ValueError:
                continue
    return found


def _has_sparse_form(layer: Layer) -> bool:
    """Return whether a sparse layer can have the geometry of this one."""
    if isinstance(layer, nn.Conv2d):
        try:
            geometry(layer)
        except ValueError:
            return False
    return True


def name_of(label: str) -> str:
    """Return the format of a candidate."""
    return label.split()[0]


def lacking(zeros: Zeros, backends: tuple[str, ...]) -> list[str]:
    """Return a line for each reason why the device cannot run a variant that the layer could gain from."""
    device = zeros.weight.device
    dtype = zeros.weight.dtype
    lines = []
    for format in map(FORMATS.__getitem__, backends):
        for options in ({}, *(options for _, options in format.candidates(zeros))):
            lines.append(format.lacking(device, dtype, **options))
    return [line for line in lines if line]


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


def _usable(modules: dict[str, nn.Module], x: Tensor, cuda_graph: bool) -> tuple[dict[str, nn.Module], list[str]]:
    """Return the candidates whose output is the dense one and that can be timed, and a line about each other kind."""
    exact = modules[PLAIN](x)
    differ = [label for label, module in modules.items() if label != PLAIN and not agrees(module(x), exact)]
    loose = [label for label in modules if cuda_graph and label not in differ and not _capturable(modules[label], x)]
    reasons = {"output differs": differ, "not in a CUDA graph": loose}
    good = {label: module for label, module in modules.items() if label not in (*differ, *loose)}
    return good, [f"{reason}: {', '.join(wrong)}" for reason, wrong in reasons.items() if wrong]


def _capturable(module: nn.Module, x: Tensor) -> bool:
    try:
        timing.capture(partial(module, x))
    except RuntimeError:
        return False
    return True


def _left_dense(layer: Layer, settings: Settings) -> str:
    """Return a line for the report where nothing here leaves out the zeros of a layer; else an empty one."""
    pattern = settings.pattern
    if pattern is not None and (note := pattern.storage(weight_shape(layer)).note):
        return f"{pattern}: {note}"
    if getattr(layer, "groups", 1) == 1 or (layer.weight != 0).all():
        return ""
    kind = "depthwise" if layer.groups == layer.in_channels else "grouped"
    return f"{kind} convolution: stays dense"
