"""One entry of the table: a problem in a pattern and density, timed by the means of ``compress_``."""

from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from smart_kernels.convert.compress import Settings, dense_of, timed, tried, zeros_of
from smart_kernels.convert.measure import pair_ratio
from smart_kernels.convert.measure.effort import BRIEF
from smart_kernels.convert.modules import twin
from smart_kernels.formats import Zeros
from smart_kernels.nn import matrix, random_mask, weight_shape
from smart_kernels.patterns import Pattern

from .problems import Problem

SEED = 0  # of the masks: a problem has the same zeros in each process


@dataclass(frozen=True)
class Entry:
    """Hold what was measured of a problem in a pattern.

    Attributes:
        density: fraction of the weights that the mask left.
        ratio: time of the fastest sparse form / time of the fastest dense one.
        label: the fastest sparse form; empty where none fits.
    """

    density: float
    ratio: float
    label: str


def measure_dense(problem: Problem, settings: Settings) -> tuple[float, str]:
    """Time the dense forms of a problem's layer: ms of one call of the fastest, and which it is."""
    zeros = Zeros(matrix(problem.layer), problem.shape.taps)
    modules, _ = tried([problem.layer], zeros, problem.x, settings)
    times = timed({label: modules[label] for label in dense_of(modules)}, problem.x, settings)
    best = min(times, key=lambda label: median(times[label]))
    return 1e3 * median(times[best]), best


def measure_sparse(problem: Problem, pattern: Pattern, density: float, settings: Settings) -> Entry:
    """Time the forms of a problem's layer with random zeros of a pattern, and return the fastest sparse one."""
    layer, kept = with_zeros(problem.layer, pattern, density)
    modules, _ = tried([layer], zeros_of(layer, pattern), problem.x, settings)
    dense = dense_of(modules)
    if len(dense) == len(modules):
        return Entry(kept, 1.0, "")
    times = timed(modules, problem.x, settings, BRIEF)
    best = min(times.keys() - {*dense}, key=lambda label: median(times[label]))
    baseline = min(times.keys() & {*dense}, key=lambda label: median(times[label]))
    return Entry(kept, pair_ratio(times[best], times[baseline])[0], best)


def with_zeros(layer: nn.Linear | nn.Conv2d, pattern: Pattern, density: float) -> tuple[nn.Module, float]:
    """Return a copy of a layer with random zeros of a pattern, and the density that they leave."""
    shape = weight_shape(layer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        scores = random_mask(shape, pattern, density)
    mask = pattern.expand(scores, shape)
    weight = layer.weight.detach().clone()
    weight[weight == 0] = torch.finfo(weight.dtype).tiny  # only the zeros of the mask count
    weight.mul_(_like(mask, weight))
    pruned = twin(layer, {id(layer.weight): nn.Parameter(weight, layer.weight.requires_grad)})
    return pruned, mask.mean().item()


def _like(mask: Tensor, weight: Tensor) -> Tensor:
    """Bring (N, taps, C) into the shape of the weight of a layer."""
    return mask.transpose(1, 2).reshape(weight.shape).to(weight)
