"""Methods whose masks are soft, of any form."""

from abc import abstractmethod

import torch

from smart_train.masks import Masks, fold_

from .base import Pruner


class ChainedPruner(Pruner):
    """A method whose masks are a differentiable function of the scores.

    The gradient that a step has found for the masks goes on into the scores in ``after_backward``, which has to be
    called; so batches may be accumulated.

    Attributes:
        folds: whether what is kept is multiplied by its mask when the search ends.
        pace: learning rate of the scores over that of SMART, for scores that begin near 1 and end at 0 or 1.
        leaves: the masks of the step, which ``penalty()`` may depend on.
    """

    learns = True
    folds = False
    pace = 1.0
    leaves: Masks

    def param_group(self, lr=0.1):
        return super().param_group(lr * self.pace)

    @abstractmethod
    def values(self) -> Masks:
        """Return (rows, cols) masks by layer, differentiable in the scores."""

    def search(self):
        self.chain = self.values()
        self.leaves = {name: value.detach().requires_grad_() for name, value in self.chain.items()}
        self.masked.set_masks(self.leaves)

    def after_backward(self):
        if self.stage != "search":
            return
        known = [name for name, leaf in self.leaves.items() if leaf.grad is not None and self.chain[name].requires_grad]
        gradients = [self.leaves[name].grad for name in known]
        self.masked.ranks.mean_(gradients)
        torch.autograd.backward([self.chain[name] for name in known], gradients)
        self.findings.add()

    def kept_weights(self) -> torch.Tensor:
        """Return how many weights the masks of the step leave, over how many there may be; differentiable in them."""
        costs = {name: cost for pool in self.pools for name, cost in pool.costs.items()}
        live = sum((costs[name].to(leaf) * leaf).sum() for name, leaf in self.leaves.items())
        return live / sum(pool.weights - pool.asked for pool in self.pools)

    def harden(self):
        if self.stage == "search":
            self.masked.check_scores()
            self.settle()
            if self.folds:
                fold_(self.masked)
        super().harden()

    def settle(self) -> None:
        """Turn scores into what tiles are ranked by; by default they are."""
