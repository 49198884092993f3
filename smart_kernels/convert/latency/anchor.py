"""What a layer's time counts in its model: the whole model is measured a second time, with all of them pruned."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from smart_kernels.convert.compress import compress_
from smart_kernels.convert.measure.choice import MARGIN

from .measure import with_zeros
from .problems import Problem
from .table import Curve

PATIENCE = 0.1  # seconds to go on comparing a layer whose times have not settled


@dataclass(frozen=True, eq=False)
class Measured:
    """A problem with its times, each layer measured alone.

    Attributes:
        problem: which.
        ms, label: of a dense call, and the form.
        curves: by the text of the pattern.
    """

    problem: Problem
    ms: float
    label: str
    curves: dict[str, Curve]

    @property
    def fastest(self) -> Curve | None:
        """The curve that is lowest where it begins; None where nothing beats dense there."""
        found = min(self.curves.values(), key=lambda curve: curve.ratios[0], default=None)
        return None if found is None or found.ratios[0] >= 1 - MARGIN else found

    @property
    def saved_ms(self) -> float:
        """What all calls save at most, alone."""
        return 0.0 if self.fastest is None else self.problem.calls * self.ms * (1 - self.fastest.ratios[0])


def counted(plain: nn.Module, example_input, measured: Sequence[Measured], dense_ms: float, cuda_graph: bool) -> float:
    """Return how many milliseconds of the model a millisecond of its layers is.

    Layers are measured alone, with their weights in the cache. In the model a dense weight pushes out what the other
    layers need next, and what comes between layers is faster when their weights are small, too.

    Args:
        plain: a copy of the model, as it came; it is pruned and compressed.
        example_input: what it runs on.
        measured: its layers.
        dense_ms: the whole model in its best dense form.
        cuda_graph: see ``compress_``.
    """
    most = dense_ms / sum(each.problem.calls * each.ms for each in measured)  # layers are no more than the model
    saved = sum(each.saved_ms for each in measured)
    if saved <= 0:
        return min(1.0, most)
    for each in measured:
        if each.fastest is not None:
            _prune(plain, each)
    report = compress_(plain, example_input, seconds=PATIENCE, cuda_graph=cuda_graph)
    found = dense_ms * (1 - report.after.ms / report.before.ms) / saved
    return min(found, most) if found > 0 else min(1.0, most)


@torch.no_grad()
def _prune(plain: nn.Module, measured: Measured) -> None:
    """Write random zeros into the layers of a problem: the fastest pattern, at its lowest density."""
    curve = measured.fastest
    for names in measured.problem.users:
        layer = plain.get_submodule(names[0])
        pruned, _ = with_zeros(layer, curve.pattern, curve.densities[0])
        layer.weight.copy_(pruned.weight)
