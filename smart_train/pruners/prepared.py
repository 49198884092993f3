"""Methods that look at training data before the first step."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from smart_kernels import Pattern
from smart_train.checks import check_number
from smart_train.masks import Masks
from smart_train.plans import Plan

from .base import Pruner


class PreparedPruner(Pruner):
    """A method whose scores are measured on batches that ``prepare`` is given, before the first step.

    Args:
        prepare_batches: how many batches to look at; default: ``usual_batches``.
        common: the arguments of ``Pruner``.

    Attributes:
        prepared: whether that has happened; the scores are in the model then.
    """

    options: tuple[str, ...] = ("prepare_batches",)
    usual_batches = 4
    prepared = False

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | Plan | None = None,
        sparsity: float | None = None,
        *,
        prepare_batches: int | None = None,
        **common: Any,
    ):
        self.prepare_batches = self.usual_batches if prepare_batches is None else prepare_batches
        check_number("prepare_batches", self.prepare_batches, least=1, whole=True)
        super().__init__(model, pattern, sparsity, **common)

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
