"""Pruning at once, by what the loss says of each tile."""

from .prepared import PreparedPruner
from .saliency import saliency


class TaylorPruner(PreparedPruner):
    """One-shot pruning by first-order Taylor saliency, ranked over all layers.

    After Molchanov et al., "Importance Estimation for Neural Network Pruning" (CVPR 2019, arXiv 1906.10771): the
    squared first-order contribution of a group of weights to the loss, summed over batches, needs no scale per layer.
    Our reading, from the abstract and from memory: groups are tiles or single weights and not filters only, all are
    removed at once instead of a few between steps of training, and four batches are enough by default.

    ``prepare`` has to be called before the first step.

    Args:
        prepare_batches: how many batches to gather it from.
        common: the arguments of ``Pruner``.
    """

    title = "one-shot Taylor"

    def measure(self, batches, loss):
        return saliency(self.masked, batches, loss)

    def search(self):
        self.harden()
