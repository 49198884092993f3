"""Sparse and dense training in turns."""

from typing import Any

import torch
from torch import nn

from smart_kernels import Pattern
from smart_train.checks import check_number
from smart_train.plans import Plan

from .base import Pruner

MOMENTA = ("momentum_buffer", "exp_avg")  # as SGD and Adam call them


class ACDCPruner(Pruner):
    """AC/DC: sparse and dense phases in turns; what was pruned comes back as 0, and momentum is forgotten then.

    After Peste et al., "AC/DC: Alternating Compressed/DeCompressed Training" (NeurIPS 2021, arXiv 2106.12379), from its
    code: a sparse phase keeps the largest weights of all layers, chosen once at its start. The search is ``phases``
    pairs of a sparse and a dense phase of equal length, and finetuning the last sparse one. Our reading: tiles are
    scored by their mean magnitude, standardised over their layer, as in one-shot pruning here. An output channel of
    which nothing was left comes back as it was: a BatchNorm magnifies the gradient of one that starts from 0.

    The momentum is found in ``optimizers``; a training loop that does not fill them in keeps it.

    Args:
        phases: pairs of phases in the search.
        common: the arguments of ``Pruner``.
    """

    title = "AC/DC"
    options = ("phases",)

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | Plan | None = None,
        sparsity: float | None = None,
        *,
        phases: int = 3,
        **common: Any,
    ):
        check_number("phases", phases, least=1, whole=True)
        self.phases = phases
        super().__init__(model, pattern, sparsity, **common)

    def search(self):
        now = self._phase(self.steps)
        if now == self._phase(self.steps - 1):
            return
        if now % 2:
            self._decompress()
        else:
            self.masked.score_by_magnitude()
            self.masked.set_masks(self.masked.hard_masks())

    def _phase(self, step: int) -> int:
        """Return the number of the phase of a step, even for sparse ones; -1 before the first."""
        place = step - self.lengths.dense_steps - 1  # in the search, from 0
        return -1 if place < 0 else place * 2 * self.phases // self.lengths.search_steps

    def _decompress(self) -> None:
        for layers in self.masked.sharing.values():
            weights = [(layer.raw_weight, layer.weight) for layer in layers.values()]
            for raw, masked in weights:
                masked = masked.detach()
                gone = masked.flatten(1).eq(0).all(1).view(-1, *[1] * (masked.dim() - 1))
                raw.data.copy_(torch.where(gone, raw, masked))
        self.masked.set_gates(dict.fromkeys(self.layers))
        for optimizer in self.optimizers:
            for state in optimizer.state.values():
                for name in MOMENTA:
                    if state.get(name) is not None:
                        state[name].zero_()

    def harden(self):
        if self.stage == "search":
            self.masked.score_by_magnitude()
        super().harden()
