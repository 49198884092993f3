"""Find out about a search: does it learn, does it still change its mind, what did hardening cost."""

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from smart_train.masks import MaskedModel, Masks

from .signal import Signal, rate_of


class Findings:
    """Numbers for ``Pruner.report()`` that belong to the whole search and not to the step it is at.

    Args:
        masked: the model.
        learns: whether its scores are trained.
    """

    def __init__(self, masked: MaskedModel, learns: bool):
        self.masked = masked
        self.signal = Signal([scores.numel() for scores in masked.scores()]) if learns else Signal([])
        self.looked = 0  # the step of the last look
        self.masks: Masks = {}
        self.last_gap = 0.0

    def add(self) -> None:
        """Take up the gradients that the scores have now."""
        self.signal.add([scores.grad for scores in self.masked.scores()])

    def report(self, stage: str, step: int, hard: Masks) -> dict[str, float]:
        """Return what is known at a step, whose masks would harden to ``hard``.

        Returns:
            In the search flips, the fraction of the tiles a step whose hard mask has changed since the last report;
            after it last_gap, the gap that hardening has closed. In both z2 and z2_above_4, the signal in the gradients
            of scores that learn (see ``signal``), where ``after_backward()`` is called.
        """
        if stage == "search":
            return {"flips": self._flips(step, hard), **self.signal.report()}
        return {"last_gap": self.last_gap, **self.signal.report()} if stage == "finetune" else {}

    def _flips(self, step: int, hard: Masks) -> float:
        hard = {name: mask.bool().cpu() for name, mask in hard.items()}
        flips = 0.0
        if self.masks and step > self.looked:
            changed = sum(int((mask ^ self.masks[name]).sum()) for name, mask in hard.items())
            flips = changed / sum(mask.numel() for mask in hard.values()) / (step - self.looked)
        self.masks = hard
        self.looked = step
        return flips

    def end(self, gap: float) -> None:
        """Remember the gap that hardening closed; the masks of the last look are forgotten."""
        self.last_gap = gap
        self.masks = {}

    def verdict(self, optimizers: Sequence[Optimizer], steps: int) -> str:
        """Return why a search of so many steps was not worth its while, in one line, or nothing."""
        return self.signal.verdict(rate_of(self.masked.scores(), optimizers), steps)

    def state_dict(self) -> dict[str, Any]:
        """Return everything, plain enough for ``torch.load(weights_only=True)``."""
        return {"looked": self.looked, "looks": self.masks, "last_gap": self.last_gap, **self.signal.state_dict()}

    def load_state_dict(self, taken: dict[str, Any]) -> None:
        """Go on where ``state_dict()`` was taken; states of version 0.1.0 have nothing of a search."""
        if "looked" not in taken:
            return
        self.looked = taken["looked"]
        self.masks = taken["looks"]
        self.last_gap = taken["last_gap"]
        self.signal.load_state_dict(taken)
