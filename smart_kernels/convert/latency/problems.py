"""Which problems a model poses: layers that take the same time, whatever they are called."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smart_kernels.convert.compress import problem_of
from smart_kernels.convert.maskable import prunable
from smart_kernels.convert.modules import inputs_of, watch_calls
from smart_kernels.nn import Sparse, weight_shape
from smart_kernels.patterns import Pattern, WeightShape

Patterns = dict[str, tuple[Pattern, ...]]  # by the name of a layer: those that mask_ takes it in


@dataclass(frozen=True, eq=False)
class Problem:
    """A plain layer and its input, and who poses the same problem.

    Attributes:
        key: equal for equal problems, in words that a file can hold.
        layer, x: the layer that is measured, and its input.
        shape: of its weight.
        users: names of the layers that share a weight -> calls of all of them in one forward.
        patterns: those that a user may be pruned in.
    """

    key: str
    layer: nn.Linear | nn.Conv2d
    x: Tensor
    shape: WeightShape
    users: dict[tuple[str, ...], int]
    patterns: tuple[Pattern, ...]

    @property
    def calls(self) -> int:
        """Return how often a forward poses it."""
        return sum(self.users.values())

    def macs(self) -> int:
        """Return the multiply-accumulates of one call."""
        with torch.no_grad():
            return self.layer(self.x).numel() // self.shape.N * self.layer.weight.numel()


def patterns_of(model: nn.Module, patterns: Sequence[Pattern]) -> Patterns:
    """Return for each layer the patterns that prune it; of those that are the same in its shape the first."""
    found: Patterns = {}
    for pattern in patterns:
        for name, layer in prunable(model, pattern).items():
            shape = weight_shape(layer)
            known = found.setdefault(name, ())
            if all(_structure(pattern, shape) != _structure(other, shape) for other in known):
                found[name] = (*known, pattern)
    return found


def _structure(pattern: Pattern, shape: WeightShape) -> tuple:
    storage = pattern.storage(shape)
    return storage.format, storage.tile, storage.groups, pattern.scores_shape(shape)


def problems_of(model: nn.Module, example_input, patterns: Patterns) -> list[Problem]:
    """Return the problems of a model's prunable layers, those that take most of the arithmetic first.

    Args:
        model: in its best dense form; what is sparse in it is taken as plain.
        example_input: what it runs on.
        patterns: of the layers that count.
    """
    layers = {name: model.get_submodule(name) for name in patterns}
    inputs = inputs_of(model, list(layers.values()), example_input)
    calls = _calls(model, list(layers.values()), example_input)
    found: dict[str, Problem] = {}
    for names in _sharing(layers).values():
        called = [name for name in names if layers[name] in inputs]
        if not called:
            continue
        layer = layers[called[0]]
        plain = layer.to_dense() if isinstance(layer, Sparse) else layer
        x = inputs[layer]
        key = repr(problem_of(plain, x))
        new = Problem(key, plain.eval(), x, weight_shape(plain), {}, patterns[called[0]])
        problem = found.setdefault(f"{key}{patterns[called[0]]}", new)
        problem.users[tuple(called)] = sum(calls[layers[name]] for name in called)
    return sorted(found.values(), key=lambda problem: -problem.macs() * problem.calls)


def _sharing(layers: dict[str, nn.Module]) -> dict[int, list[str]]:
    """Return the names of those that share a weight together."""
    found: dict[int, list[str]] = {}
    for name, layer in layers.items():
        weight = layer.format.values if isinstance(layer, Sparse) else layer.weight
        found.setdefault(id(weight), []).append(name)
    return found


def _calls(model: nn.Module, layers: list[nn.Module], example_input) -> Counter:
    """Count the calls of each layer in one forward."""
    counts: Counter = Counter()
    watch_calls(model, layers, example_input, lambda layer, x: counts.update([layer]))
    return counts
