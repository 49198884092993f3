"""Learned scores, used as if they were hard."""

import math

from smart_train.schedule import cubic

from .base import Pruner

TINY = 1e-30  # instead of 0 in a mask: only what is above 0 has a gradient


class StraightThroughPruner(Pruner):
    """Straight-through scores: hard masks forward, their gradient for every score, dead or alive.

    After Zhang et al., "OptG" (arXiv 2201.12826), our reading, from its code: a score falls with
    ``dloss/dw_masked * w`` summed over its tile, and what is pruned grows along a sigmoid over the search. Different
    here: scores start from standardised magnitudes instead of 0 and are trained by the optimizer of ``param_group()``,
    masks are made anew in each step instead of each epoch. A channel that is dead hears of it by the bias of its
    BatchNorm only. ``after_backward`` has to be called.
    """

    title = "straight-through"
    learns = True

    def search(self):
        masks = self.masked.hard_masks(cubic(ramp(self.progress)))
        self.leaves = {name: mask.clamp_min(TINY).requires_grad_() for name, mask in masks.items()}
        self.masked.set_masks(self.leaves)

    def masks(self):
        return {name: (mask > TINY).float() for name, mask in super().masks().items()}

    def after_backward(self):
        if self.stage != "search":
            return
        known = {name: leaf.grad for name, leaf in self.leaves.items() if leaf.grad is not None}
        self.masked.ranks.mean_(list(known.values()))
        for name, gradient in known.items():
            self.layers[name].scores.grad = gradient if self.layers[name].scores.requires_grad else None
        self.findings.add()


def ramp(u: float) -> float:
    """Return 0 at u = 0 and 1 at u = 1 along a sigmoid that is steep in the middle."""
    low, value, high = (1 / (1 + math.exp(-12 * (at - 0.5))) for at in (0.0, u, 1.0))
    return (value - low) / (high - low)
