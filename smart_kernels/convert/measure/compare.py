"""Two models beside each other."""

import logging
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median

import torch
from torch import nn

from smart_kernels.convert.modules import call, device_of, evaluating

from . import timing
from .choice import Times, pair_ratio
from .effort import FULL, TOLD, Effort
from .race import STEADY

logger = logging.getLogger("smart_kernels")


@dataclass(frozen=True)
class Comparison:
    """Two models timed in turns on the same input.

    Attributes:
        dense_ms, sparse_ms: median time of each.
        speedup: median over the pairs of dense / sparse.
        spread: interquartile range of those ratios over their median.
        pairs: how many.
    """

    dense_ms: float
    sparse_ms: float
    speedup: float
    spread: float
    pairs: int

    @property
    def steady(self) -> bool:
        """Return whether the ratios have settled."""
        return self.spread <= STEADY

    def to_dict(self) -> dict:
        """Return plain values, for JSON."""
        return asdict(self)


def compare(
    dense: nn.Module, sparse: nn.Module, example_input, seconds: float = 3.0, cuda_graph: bool = False
) -> Comparison:
    """Time two models in turns, in eval mode; at least 30 pairs, and more while their ratios have not settled.

    Args:
        dense, sparse: on the same device.
        example_input: tensor, tuple of positional or dict of keyword arguments.
        seconds: how long at most to go on.
        cuda_graph: time replays of a CUDA graph of each; where one cannot be captured, both as they are.

    Raises:
        ValueError: no parameters in ``dense``, or no ``example_input``.
    """
    models = {"dense": dense, "sparse": sparse}
    times = time_models(models, example_input, seconds, cuda_graph, TOLD)
    ms = {name: 1e3 * median(rounds) for name, rounds in times.items()}
    return Comparison(ms["dense"], ms["sparse"], *pair_ratio(times["dense"], times["sparse"]), len(times["dense"]))


def time_models(
    models: dict[str, nn.Module], example_input, seconds: float, cuda_graph: bool, effort: Effort = FULL
) -> Times:
    """Time models on the same input; the arguments are those of ``compare``, and how many rounds."""
    device = device_of(next(iter(models.values())))
    calls = {name: partial(call, model, example_input) for name, model in models.items()}
    with ExitStack() as stack:
        for context in (*map(evaluating, models.values()), torch.inference_mode()):
            stack.enter_context(context)
        try:
            return timing.time_in_turns(calls, tuple(calls), device, seconds, cuda_graph, None, effort)
        except RuntimeError as error:
            if not cuda_graph:
                raise
            logger.warning("timed without a CUDA graph, which cannot hold one of the models: %s", error)
            return timing.time_in_turns(calls, tuple(calls), device, seconds, False, None, effort)
