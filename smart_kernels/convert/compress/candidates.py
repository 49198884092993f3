"""Everything that a layer could run as: built, checked and timed."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from smart_kernels.convert.measure import Times, timing
from smart_kernels.formats import FORMATS, Zeros
from smart_kernels.nn import geometry, sparse_layer

from .settings import Settings
from .usable import PLAIN, usable

Layer = nn.Linear | nn.Conv2d


def tried(layers: list[Layer], zeros: Zeros, x: Tensor, settings: Settings) -> tuple[dict[str, nn.Module], list[str]]:
    """Build what layers that share a weight could run as, and leave out what is wrong or cannot be timed.

    Returns:
        the candidates by label, and lines about them: what a format remarks, and why some were left out.
    """
    modules = candidates(layers, zeros, settings.tried)  # outside of inference mode: what is built here trains later
    remarks = [FORMATS[name].remark(zeros) for name in settings.tried]
    with torch.inference_mode():
        modules, reasons = usable(modules, x, settings.cuda_graph)
    return modules, [line for line in (*remarks, *reasons) if line]


def timed(modules: dict[str, nn.Module], x: Tensor, settings: Settings, effort: timing.Effort = timing.FULL) -> Times:
    """Time the candidates of a layer in turns on its input x; those that lose clearly may be missing."""
    calls = {label: partial(module, x) for label, module in modules.items()}
    place = (x.device, settings.seconds, settings.cuda_graph)
    with torch.inference_mode():
        return timing.time_in_turns(calls, dense_of(modules), *place, None, effort)


def dense_of(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the labels of dense candidates."""
    return tuple(label for label in labels if FORMATS[name_of(label)].dense)


def candidates(
    layers: list[Layer], zeros: Zeros, backends: tuple[str, ...], wanted: set[str] | None = None
) -> dict[str, nn.Module]:
    """Build what a layer could run as, by label; what a format refuses is left out.

    Args:
        layers: plain ones that share a weight. The first is the candidate ``PLAIN``, and the only one where one of them
            has a geometry that no sparse layer has.
        zeros: the weight.
        backends: names of formats.
        wanted: labels of those to build; None for all.
    """
    layer = layers[0]
    found: dict[str, nn.Module] = {PLAIN: layer}
    if not all(map(_has_sparse_form, layers)):
        return found
    for format in map(FORMATS.__getitem__, backends):
        for label, options in format.candidates(zeros):
            if wanted is not None and label not in wanted:
                continue
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
