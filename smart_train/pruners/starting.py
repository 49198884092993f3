"""Where scores that learn start from: magnitudes or saliency."""

from typing import Any

from torch import nn

from smart_kernels import Pattern
from smart_train.masks import Masks, is_shard
from smart_train.plans import Plan

from .prepared import PreparedPruner
from .saliency import layers_differ, masks_of_ones, saliency, start_from_saliency_

INITS = ("auto", "magnitude", "saliency")


class StartingPruner(PreparedPruner):
    """A method whose scores start from the magnitude or from the saliency of their tile.

    Saliency comes from ``prepare_batches`` batches: those of the last dense steps, where there are such, at no further
    pass (``after_backward`` has to be called; not in shards); else those that ``prepare`` is given.

    Args:
        init: "magnitude", standardised over the layer; "saliency", standardised over the pool; "auto" takes saliency
            where ``layers_differ`` and it has been gathered.
        prepare_batches: how many batches to gather it from.
        common: the arguments of ``Pruner``.

    Attributes:
        init: what it came to, "magnitude" or "saliency".
    """

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | Plan | None = None,
        sparsity: float | None = None,
        *,
        init: str = "auto",
        prepare_batches: int = 8,
        **common: Any,
    ):
        if init not in INITS:
            raise ValueError(f"init must be one of {', '.join(INITS)}, got {init!r}")
        super().__init__(model, pattern, sparsity, prepare_batches=prepare_batches, **common)
        self.ones: Masks = {}  # of the dense step that gathers
        self.demanded = init == "saliency"
        wanted = self.demanded or (init == "auto" and layers_differ(self.masked))
        self.init = "saliency" if wanted else "magnitude"
        self.gathered = min(prepare_batches, self.lengths.dense_steps) if wanted else 0  # in the last dense steps
        self.prepare_batches = prepare_batches if wanted and not self.gathered else 0

    def prepare(self, batches, loss):
        if self.prepare_batches:
            super().prepare(batches, loss)

    def repeats(self, stage):
        return super().repeats(stage) and not (stage == "dense" and self.gathered)

    def measure(self, batches, loss):
        return saliency(self.masked, batches, loss)

    def dense(self):
        number = self.steps - (self.lengths.dense_steps - self.gathered)  # counted from 1
        if number < 1 or any(map(is_shard, self.masked.scores())):
            return
        if number == 1:
            for layer in self.layers.values():
                layer.scores.data.zero_()
        self.ones = masks_of_ones(self.masked)
        self.masked.set_masks(self.ones)

    def after_backward(self):
        for name, mask in self.ones.items():
            if mask.grad is not None:
                self.layers[name].scores.data.add_(mask.grad.square())
                self.prepared = True
        if self.stage == "search":
            self.findings.add()

    def report(self):
        return super().report() | {"init": self.init}

    def state_dict(self):
        return super().state_dict() | {"init": self.init}

    def load_state_dict(self, taken):
        super().load_state_dict(taken)
        self.init = taken.get("init", "magnitude")  # states of version 0.1.0 have none

    def start(self):
        self.ones = {}
        if self.demanded:
            super().start()
        if self.init == "saliency" and self.prepared:
            self.masked.ranks.mean_(self.masked.scores())
            start_from_saliency_(self.masked)
        else:
            self.init = "magnitude"
            self.masked.score_by_magnitude()
