"""What one layer runs fastest as."""

from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from smart_kernels.convert.measure import timing
from smart_kernels.convert.measure.agree import agrees
from smart_kernels.convert.measure.choice import Times, choose, pair_ratio
from smart_kernels.formats import Format
from smart_kernels.nn.sparse_base import matrix, weight_shape

from .candidates import DENSE, Zeros, candidates
from .notes import left_dense
from .report import Row
from .settings import Settings


@dataclass(frozen=True)
class Outcome:
    """A row, and the format of its weight; None: the plain layer."""

    row: Row
    format: Format | None = None


@dataclass(frozen=True)
class Selected:
    """What a weight may end as: the winner, its best dense candidate, the plain layer."""

    chosen: Outcome
    rival: Outcome
    plain: Outcome


def select(names: tuple[str, ...], zeros: Zeros, x: Tensor | None, settings: Settings) -> Selected:
    """Measure everything that a layer could run as.

    Args:
        names: of the layers that share its weight.
        zeros: the layer, and what its zeros are made of.
        x: its input, or None where the model does not call it.
        settings: how to choose.
    """
    weight = matrix(zeros.layer)
    kept = (weight != 0).sum().item() / weight.numel()
    row = Row(names[0], tuple(weight_shape(zeros.layer)), kept, zeros.tile, shared=tuple(names[1:]))
    if x is None:
        return _alone(replace(row, note="not called: left as it is"))
    modules = candidates(zeros, settings.tried)  # outside of inference mode: what is built here trains later
    with torch.inference_mode():
        modules, notes = _usable(modules, x, settings.cuda_graph)
        calls = {name: partial(module, x) for name, module in modules.items()}
        times = timing.measure(calls, DENSE, x.device, settings.seconds, settings.cuda_graph) if len(calls) > 1 else {}
    row = replace(row, note="; ".join(filter(None, [*notes, left_dense(zeros.layer, settings.pattern)])))
    if not times:
        return _alone(row)
    choice = choose(times, DENSE, settings.policy)
    of = (choice.name, choice.baseline, "dense")
    return Selected(*(_outcome(row, times, name, choice.baseline, modules[name]) for name in of))


def _alone(row: Row) -> Selected:
    """Where there is nothing to choose from."""
    return Selected(*[Outcome(row)] * 3)


def _outcome(row: Row, times: Times, name: str, baseline: str, module: nn.Module) -> Outcome:
    format = getattr(module, "format", None)
    row = replace(
        row,
        choice=name.split()[0],
        options={} if format is None else format.options(),
        baseline=baseline,
        dense_ms=median(times[baseline]) * 1e3,
        ms=median(times[name]) * 1e3,
        spread=pair_ratio(times[name], times[baseline])[1],
        pairs=len(times["dense"]),
    )
    return Outcome(row, format)


def _usable(modules: dict[str, nn.Module], x: Tensor, cuda_graph: bool) -> tuple[dict[str, nn.Module], list[str]]:
    """The candidates whose output is the dense one and that can be timed, and a line about those of each other kind."""
    exact = modules["dense"](x)
    differ = [name for name, module in modules.items() if name != "dense" and not agrees(module(x), exact)]
    loose = [name for name in modules if cuda_graph and name not in differ and not _capturable(modules[name], x)]
    reasons = {"output differs": differ, "not in a CUDA graph": loose}
    good = {name: module for name, module in modules.items() if name not in (*differ, *loose)}
    return good, [f"{reason}: {', '.join(wrong)}" for reason, wrong in reasons.items() if wrong]


def _capturable(module: nn.Module, x: Tensor) -> bool:
    try:
        timing.capture(partial(module, x))
    except RuntimeError:
        return False
    return True
