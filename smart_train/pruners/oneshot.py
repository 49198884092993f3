"""Pruning at once, by magnitude."""

from .spreading import SpreadingPruner


class OneShotPruner(SpreadingPruner):
    """One-shot magnitude pruning: what the weights are worth is read off them once, and the rest is finetuning.

    The score of a tile is the mean magnitude of its weights, standardised over its layer. The masks are fixed in the
    first step after the dense stage; the steps of the search are steps of finetuning. The arguments are those of
    ``SpreadingPruner``.
    """

    title = "one-shot magnitude"

    def search(self):
        self.harden()
