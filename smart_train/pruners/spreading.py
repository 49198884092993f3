"""Methods by magnitude, or any fixed scores, that may be told how to spread the budget over the layers."""

from typing import Any

from torch import nn

from smart_kernels import Pattern
from smart_train.masks import erk, spread_, uniform
from smart_train.plans import Plan

from .base import Pruner

SPREADS = {"scores": None, "uniform": uniform, "erk": erk}


class SpreadingPruner(Pruner):
    """A method whose scores are found in ``score()`` and then, if asked, ranked within their layer alone.

    Args:
        spread: how the budget is spread over the layers. "scores": by what they score. "uniform": the same sparsity for
            each. "erk": see ``erk``.
        common: the arguments of ``Pruner``.
    """

    options: tuple[str, ...] = ("spread",)

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | Plan | None = None,
        sparsity: float | None = None,
        *,
        spread: str = "scores",
        **common: Any,
    ):
        if spread not in SPREADS:
            raise ValueError(f"spread must be one of {', '.join(SPREADS)}, got {spread!r}")
        self.spread = SPREADS[spread]
        super().__init__(model, pattern, sparsity, **common)

    def check(self, masked):
        local = [name for name, layer in masked.layers.items() if layer.pattern.local]
        if self.spread and local:
            raise ValueError(
                f"spread must be scores for N:M, whose groups have budgets, got another for {', '.join(local)}"
            )

    def score(self) -> None:
        """Set the scores; by default to standardised magnitudes."""
        self.masked.score_by_magnitude()

    def start(self):
        self.score()
        for pool in self.pools if self.spread else ():
            spread_(pool, self.spread(pool))
