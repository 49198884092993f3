"""Where a masked layer keeps its gate, and how a copy of the layer comes to the gates that were set later."""

import copy

import torch
from torch import Tensor, nn

from .gates import Gate


class Held:
    """The gate of one layer.

    A copy of a layer has a copy of its gate. When somebody writes into the scores of the copy, as averaging of weights
    does (``torch.optim.swa_utils.AveragedModel``), the copy takes the gate that the original has by then, also the last
    one of an original that has become plain. An average that was begun before the search would evaluate unpruned
    otherwise.

    Attributes:
        gate: the gate, or None.
        source: of the layer that this one was copied from; None for an original.
        seen: the version of the scores when a gate was last taken.
    """

    def __init__(self, gate: Gate | None = None, source: "Held | None" = None):
        self.gate = gate
        self.source = source
        self.seen = 0

    def now(self, scores: Tensor) -> Gate | None:
        """Return the gate that is right for the ``scores`` of a copy as they are."""
        if self.source is not None and scores._version != self.seen:
            self.seen = scores._version
            gate = self.source.gate
            self.gate = None if gate is None else gate.map(lambda value: value.to(scores.device))
        return self.gate

    def set(self, gate: Gate | None) -> None:
        """Take a gate; whoever gives a copy one of its own takes it away from its original."""
        self.gate = gate
        self.source = None

    def map(self, fn) -> None:
        """Apply ``fn`` to the tensors of the gate (moves between devices)."""
        self.gate = None if self.gate is None else self.gate.map(fn)

    def __deepcopy__(self, memo) -> "Held":
        return Held(copy.deepcopy(self.gate, memo), self.source or self)

    def __reduce__(self):
        return Held, (self.gate,)  # a file has no original


def moved_scores(scores: nn.Parameter, fn) -> nn.Parameter:
    """Apply ``fn`` (a move between devices or dtypes) to scores, in place where torch can.

    They stay float32 under ``.half()`` and ``.bfloat16()``: a temperature of 1e-3 needs the digits.
    """
    moved = fn(scores.data)
    moved = moved if moved.dtype.itemsize >= 4 else scores.data.to(moved.device)
    if not torch._has_compatible_shallow_copy_type(scores, moved):  # the meta device; nn.Module does the same
        return nn.Parameter(moved, scores.requires_grad)
    scores.data = moved
    scores.grad = None if scores.grad is None else scores.grad.to(moved)
    return scores
