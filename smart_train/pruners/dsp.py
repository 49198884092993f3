"""Groups of filters that are learned, each of which loses its own inputs."""

from typing import Any

import torch
from torch import nn

from smart_kernels import Pattern
from smart_kernels.nn import own_weights
from smart_train.checks import check_number
from smart_train.masks import Masks, per_weight, tile_means
from smart_train.plans import Plan

from .base import Pruner
from .filter_groups import TINY, hard, lasting, shares, slope
from .saliency import masks_of_ones


class DSPPruner(Pruner):
    """Dynamic Structure Pruning: filters are sorted into groups, and a group learns to do without some inputs.

    After Park et al., "Dynamic Structure Pruning for Compressing CNNs" (AAAI 2023, arXiv 2303.09736), from its code: a
    filter is in group k with ``p = gumbel_softmax(logits / 0.5)``; ``size(p) sum over inputs c of |p * W[:, c]|`` with
    ``size(p) = (sum of p^0.5)^2 (groups / filters)^1.5`` is what a group is penalised by; that is a step of the weights
    after each step of the optimizer, along a ramp, with every filter in its likeliest group; what is pruned has the
    smallest share of its group's energy, summed up from the smallest. Our reading: filters and inputs are the rows and
    columns of tiles. Logits learn from ``<dloss/dW, dpenalty/dW>``, the first order of a look ahead, with the batch of
    the step. The step of the weights ends at 0. Within an input of a group the smallest tile goes first, so budgets are
    exact, and the last tile of a group by its share. Not for ``Channel``, which has no inputs to choose from.
    ``after_backward`` and ``after_step`` have to be called.

    Args:
        groups: of the filters of a layer.
        strength: how much of itself the mean input of a group loses in the search if nothing else moves it.
        common: the arguments of ``Pruner``.
    """

    title = "dynamic structure"
    options = ("groups", "strength")

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | Plan | None = None,
        sparsity: float | None = None,
        *,
        groups: int = 2,
        strength: float = 1.0,
        **common: Any,
    ):
        check_number("groups", groups, least=1, whole=True)
        check_number("strength", strength, least=0)
        self.strength = strength
        super().__init__(model, pattern, sparsity, **common)
        logits = {name: layer.scores.new_zeros(groups, len(layer.scores)) for name, layer in self.layers.items()}
        self.logits = {name: nn.Parameter(each, requires_grad=False) for name, each in logits.items()}

    def check(self, masked):
        whole = [name for name, layer in masked.layers.items() if layer.pattern.whole_channels]
        if whole:
            raise ValueError(f"{self.title} must have patterns with columns, got whole channels for {', '.join(whole)}")

    def parameters(self):
        return super().parameters() + list(self.logits.values())

    def start(self):
        for name, energy in self._energies().items():
            self.layers[name].scores.copy_(shares(hard(self.logits[name]).to(energy), energy))

    def search(self):
        self.start()
        self.leaves = masks_of_ones(self.masked)
        self.masked.set_masks(self.leaves)

    def after_backward(self):
        if self.stage != "search":
            return
        known = {name: leaf.grad for name, leaf in self.leaves.items() if leaf.grad is not None}
        self.masked.ranks.mean_(list(known.values()))
        energies = self._energies()
        generator = torch.Generator().manual_seed(self.steps)  # the same in all processes and after a resume
        for name, logits in self.logits.items():
            noise = torch.empty(logits.shape).exponential_(generator=generator).log().neg().to(logits)
            if name in known:
                free = logits.detach().requires_grad_()
                agreed = slope(((free + noise) / 0.5).softmax(0), energies[name].to(free), known[name].to(free))
                logits.grad = torch.autograd.grad(-agreed, free)[0]

    @torch.no_grad()
    def after_step(self):
        if self.stage != "search":
            return
        lasts = {name: lasting(hard(self.logits[name]).to(energy), energy) for name, energy in self._energies().items()}
        mean = torch.cat([each.flatten() for each in lasts.values()]).mean()
        pull = self.strength * mean * 2 * self.progress / self.lengths.search_steps
        for name, last in lasts.items():
            for layer in own_weights(list(self.masked.sharing[name].values())):
                if layer.raw_weight.requires_grad:
                    layer.raw_weight.mul_(per_weight(layer, (1 - pull / last.clamp_min(TINY)).clamp_min(0)))

    def harden(self):
        if self.stage == "search":
            self.start()
        super().harden()

    def state_dict(self):
        return super().state_dict() | {"logits": {name: each.detach().clone() for name, each in self.logits.items()}}

    def load_state_dict(self, taken):
        super().load_state_dict(taken)
        for name, each in self.logits.items():
            each.copy_(taken["logits"][name])

    @torch.no_grad()
    def _energies(self) -> Masks:
        """Return for each tile the sum of its squared weights."""
        means = tile_means(self.masked, lambda layer: layer.matrix().square())
        costs = {name: cost for pool in self.pools for name, cost in pool.costs.items()}
        return {name: mean * costs[name].to(mean) for name, mean in means.items()}
