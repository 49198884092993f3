"""Soft masks that are a function of the weights alone."""

from typing import Any

import torch
from torch import Tensor, nn

from smart_kernels import Masked, Pattern
from smart_kernels.nn import own_weights
from smart_train.checks import check_number
from smart_train.masks import Masks, Pool, per_weight, tile_means
from smart_train.plans import Plan
from smart_train.schedule import cubic

from .base import Pruner


class PDPPruner(Pruner):
    """PDP: a tile is multiplied by a sigmoid of its own energy; nothing is learned beside the weights.

    After Cho, Adya and Naik, "PDP: Parameter-free Differentiable Pruning is All You Need" (NeurIPS 2023, arXiv
    2305.11203), from others' code: ``mask = sigmoid((w^2 - t^2) / softness)``, with t between the smallest kept and
    the largest pruned weight of the step, a constant for the gradient, and a share of pruned weights that grows in
    proportion to the steps. Our reading for tiles: ``w^2`` is the mean over the tile, standardised over its layer, with
    mean and deviation as constants; the budget is that of the pool instead of one per layer. N:M groups keep n from the
    first step. ``after_backward`` has to be called.

    Args:
        softness: temperature of the sigmoid, in deviations.
        common: the arguments of ``Pruner``.
    """

    title = "PDP"
    options = ("softness",)

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | Plan | None = None,
        sparsity: float | None = None,
        *,
        softness: float = 0.1,
        **common: Any,
    ):
        check_number("softness", softness, above=0)
        self.softness = softness
        super().__init__(model, pattern, sparsity, **common)

    def start(self):
        energy = tile_means(self.masked, lambda layer: layer.matrix().square())
        self.deviations = {}
        for name, layer in self.layers.items():
            self.deviations[name] = energy[name].double().std(correction=0).clamp_min(1e-12).float()
            layer.scores.copy_((energy[name] - energy[name].mean()) / self.deviations[name])

    def search(self):
        self.soft = self._soft_masks()
        self.leaves = {name: mask.clone().requires_grad_() for name, mask in self.soft.items()}
        self.masked.set_masks(self.leaves)

    @torch.no_grad()
    def _soft_masks(self) -> Masks:
        self.start()
        hard = self.masked.hard_masks(cubic(self.progress))
        held = {name: each for pool in self.pools for name, each in thresholds(pool, hard).items()}
        return {name: torch.sigmoid((self.layers[name].scores - each) / self.softness) for name, each in held.items()}

    @torch.no_grad()
    def after_backward(self):
        """Add what reaches weights by the mask: ``dloss/dmask m (1 - m) / softness * 2 w / (size deviation)``."""
        if self.stage != "search":
            return
        known = {name: leaf.grad for name, leaf in self.leaves.items() if leaf.grad is not None}
        self.masked.ranks.mean_(list(known.values()))
        costs = {name: cost for pool in self.pools for name, cost in pool.costs.items()}
        for name, gradient in known.items():
            soft = self.soft[name]
            slope = gradient * soft * (1 - soft) / self.softness
            slope = 2 * slope / (costs[name].to(soft) * self.deviations[name])
            for layer in own_weights(list(self.masked.sharing[name].values())):
                if layer.raw_weight.grad is not None:
                    layer.raw_weight.grad.add_(per_weight(layer, slope) * layer.raw_weight)

    def harden(self):
        if self.stage == "search":
            self.start()
        super().harden()


def thresholds(pool: Pool, hard: Masks) -> Masks:
    """Return what scores are held against: half way between the worst kept and the best pruned of a pool or a group."""
    layers = pool.layers.items()
    if all(layer.pattern.local for _, layer in layers):
        return {name: _of_groups(layer) for name, layer in layers}
    kept = torch.cat([layer.scores[hard[name] > 0] for name, layer in layers])
    pruned = torch.cat([layer.scores[hard[name] == 0] for name, layer in layers])
    middle = (kept.min() + pruned.max()) / 2 if len(pruned) else kept.min() - 10  # nothing is to be pruned yet
    return dict.fromkeys(pool.layers, middle)


def _of_groups(layer: Masked) -> Tensor:
    pattern = layer.pattern
    ordered = pattern.groups(layer.scores, layer.shape).sort(dim=1, descending=True).values
    low = ordered[:, pattern.n].nan_to_num(neginf=-10.0)  # a group that is filled up has fewer weights
    middle = (ordered[:, pattern.n - 1 : pattern.n] + low[:, None]) / 2
    return pattern.ungroup(middle.repeat(1, pattern.m), layer.shape)
