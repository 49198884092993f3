"""Training steps from CUDA graphs: the host launches a whole step at once."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from smart_train.pruners import Pruner

WARM = 3  # steps of a stage that are taken one by one before one is captured: kernels are compiled, memory is there


class CudaGraphs:
    """How a step is captured on a GPU: on a stream of its own, on which the steps before it ran as well."""

    def __init__(self):
        self.stream = torch.cuda.Stream()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Run on the stream of the graphs, after all that was asked for before."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)

    def capture(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Return what runs a step again and returns its loss; nothing has run yet."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            loss = step()

        def replay() -> Tensor:
            graph.replay()
            return loss

        return replay


class Stepped(Protocol):
    """Say what a training has to be; see ``Training``."""

    pruner: Pruner | None
    optimizers: list[Optimizer]

    def take_step(self, *batch: Tensor) -> Tensor: ...


class Replays:
    """The steps of a training, from one graph for each stage in which all steps do the same.

    Args:
        training: on a GPU; its optimizers become capturable.
        strict: raise where a step cannot be captured, instead of going on without graphs.
        graphs: how a step is captured; a test has another way.
    """

    def __init__(self, training: Stepped, *, strict: bool = False, graphs: CudaGraphs | None = None):
        self.training = training
        self.strict = strict
        self.graphs = graphs or CudaGraphs()
        self.inputs: tuple[Tensor, ...] = ()
        self.failed = False
        self._begin(None)

    def _begin(self, stage: str | None) -> None:
        self.stage = stage
        self.taken = 0
        self.replay: Callable[[], Tensor] | None = None

    def advance(self, *batch: Tensor) -> Tensor:
        """Take a step on a batch and return its loss."""
        training, pruner = self.training, self.training.pruner
        stage = None if pruner is None else pruner.next_stage
        if stage != self.stage:
            self._begin(stage)
        self.taken += 1
        if self.failed or self.taken <= WARM or not (pruner is None or pruner.repeats(stage)):
            with self.graphs.aside():
                return training.take_step(*batch)
        if self.replay is not None:
            if pruner is not None:
                pruner.replayed()
            self._give(batch)
        elif not self._capture(batch):
            self.failed = True
            return training.take_step(*batch)
        with self.graphs.aside():
            return self.replay().clone()

    def _give(self, batch: tuple[Tensor, ...]) -> None:
        for own, each in zip(self.inputs, batch, strict=True):
            own.copy_(each)

    def _capture(self, batch: tuple[Tensor, ...]) -> bool:
        """Capture a step, which the pruner counts; return whether that worked."""
        self.inputs = tuple(each.clone() for each in batch)
        steps = self.training.pruner and self.training.pruner.steps
        try:
            self.replay = self.graphs.capture(lambda: self.training.take_step(*self.inputs))
        except RuntimeError as error:
            if self.strict:
                raise
            warnings.warn(f"training goes on without CUDA graphs, a step cannot be captured: {error}", stacklevel=3)
            if self.training.pruner:
                self.training.pruner.steps = steps
            for optimizer in self.training.optimizers:
                optimizer.zero_grad()
            return False
        return True
