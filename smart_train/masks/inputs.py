"""A model whose masks are arguments, so that what is captured of it does not go on with the masks of its capture."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from smart_kernels import GroupGate

from .carried import Gate
from .masked_model import MaskedModel

Capture = Callable[..., nn.Module]  # as torch.cuda.make_graphed_callables


class MasksAsInputs(nn.Module):
    """Call a model with the tensors of its gates behind its own arguments.

    Args:
        masked: the model.
    """

    def __init__(self, masked: MaskedModel):
        super().__init__()
        self.model = masked.model
        self.__dict__["masked"] = masked

    def gates(self) -> dict[str, Gate]:
        """Return the gates that the layers have now, without those of layers that have none."""
        found = {name: layer.gate for name, layer in self.masked.layers.items()}
        return {name: gate for name, gate in found.items() if gate is not None}

    def forward(self, *given: Tensor) -> Any:
        gates = self.gates()
        count = len(given) - len(gates)
        with self._carrying(dict(zip(gates, map(_with, gates.values(), given[count:]), strict=True))):
            return self.model(*given[:count])

    @contextmanager
    def _carrying(self, gates: dict[str, Gate]):
        before = self.gates()
        self.masked.set_gates(gates)
        try:
            yield
        finally:
            self.masked.set_gates(before)


class Graphed:
    """A model as graphs of its forward and backward, for masks of the kind that its layers have at the capture.

    It takes the arguments of the model and gives its outputs. In the mode, training or not, in which it was not
    captured, the model runs as it is.

    Args:
        masked: the model.
        example: its arguments; what comes later has their shapes.
        capture: ``torch.cuda.make_graphed_callables``, or what does the same.

    Raises:
        ValueError: in a call, the masks have become of another kind.
    """

    def __init__(self, masked: MaskedModel, example: tuple[Tensor, ...], capture: Capture):
        self.module = MasksAsInputs(masked)
        self.module.train(masked.model.training)
        gates = self.module.gates()
        self.kinds = _kinds(gates)
        samples = [_sample(each) for each in (*example, *map(_tensor, gates.values()))]
        self.run = capture(self.module, tuple(samples), allow_unused_input=True)

    def __call__(self, *inputs: Tensor) -> Any:
        gates = self.module.gates()
        if _kinds(gates) != self.kinds:
            raise ValueError("a graph must be captured anew for each stage, got masks of another kind than it was for")
        self.module.training = self.module.model.training
        return self.run(*inputs, *map(_tensor, gates.values()))


def _kinds(gates: dict[str, Gate]) -> dict[str, tuple[Any, ...]]:
    return {name: _kind(gate) for name, gate in gates.items()}


def _tensor(gate: Gate) -> Tensor:
    """Return what of a gate changes from step to step."""
    return gate.temperature if isinstance(gate, GroupGate) else gate.mask


def _with(gate: Gate, tensor: Tensor) -> Gate:
    return replace(gate, **{"temperature" if isinstance(gate, GroupGate) else "mask": tensor})


def _kind(gate: Gate) -> tuple[Any, ...]:
    """Return what of a gate is fixed in a graph."""
    straight = isinstance(gate, GroupGate) and gate.straight_through
    return type(gate), gate.eps, straight, _tensor(gate).requires_grad


def _sample(tensor: Tensor) -> Tensor:
    """Return a tensor for a graph to read from, which is nobody else's."""
    return torch.empty_like(tensor).copy_(tensor.detach()).requires_grad_(tensor.requires_grad)
