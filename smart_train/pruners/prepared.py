"""Methods that look at training data before the first step."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from smart_train.masks import Masks

from .base import Pruner


class PreparedPruner(Pruner):
    """A method whose scores are measured on batches that ``prepare`` is given, before the first step.

    Attributes:
        prepared: whether that has happened; the scores are in the model then.
    """

    prepared = False

    @abstractmethod
    def measure(self, batches: Sequence[Sequence[Any]], loss: Callable[..., Tensor]) -> Masks:
        """Return (rows, cols) scores by layer; the arguments are those of ``prepare``."""

    def prepare(self, batches, loss):
        if not batches:
            raise ValueError("prepare must be given at least one batch, got none")
        found = self.measure(batches, loss)
        self.masked.ranks.mean_(list(found.values()))
        for name, layer in self.layers.items():
            layer.scores.data.copy_(found[name])
        self.prepared = True

    def start(self):
        if not self.prepared:
            raise ValueError(f"prepare(batches, loss) must come before the first step of {self.title}, got none")

    def state_dict(self):
        return super().state_dict() | {"prepared": self.prepared}

    def load_state_dict(self, taken):
        super().load_state_dict(taken)
        self.prepared = taken.get("prepared", False)  # states of version 0.1.0 have none
