"""Which scores compete for the same budget.

    layer a   [.7 .1 .9 .3]  \\
    layer b   [.2 .8]         >  RankedPool: one threshold, one budget in weights      Block, Channel
    layer c   [.4 .6 .5]     /

    layer d   [.7 .1 .9 .3]      LocalPool: every row has its threshold and keeps n    NM
              [.2 .8 .4 .6]
"""

import torch
from torch import Tensor

from smart_kernels import NM, GroupGate, SoftGate
from smart_kernels.patterns import allowed_weights, keep_best

from .pool import Pool, Sharing


class RankedPool(Pool):
    """Tiles of one or more layers, ranked against each other; see ``keep_best`` for the rule.

    Raises:
        ValueError: the budget is smaller than the smallest tile of each layer together.
    """

    def __init__(self, sharing: Sharing, sparsity: float, eps: float | None):
        super().__init__(sharing, eps)
        self.asked, self.budget = sparsity * self.weights, allowed_weights(sparsity, self.weights)
        floor = sum(int(cost.min()) for cost in self.costs.values())
        if floor > self.budget:
            raise ValueError(
                f"the budget must hold a tile of each of {', '.join(sharing)}, together {floor} weights, "
                f"got {self.budget} of {self.weights} at sparsity {sparsity}"
            )
        cost = torch.cat([cost.flatten() for cost in self.costs.values()])
        if (cost == cost[0]).all():
            self.everything, self.target = cost.numel(), self.budget // int(cost[0])
        else:
            self.cost, self.everything, self.target = cost, self.weights, self.budget

    def gates(self, threshold, temperature):
        return dict.fromkeys(self.layers, SoftGate(threshold, temperature, self.eps))

    def hard_masks(self):
        scores = [layer.scores for layer in self.layers.values()]
        owners = [[layer.index for layer in layers.values()] for layers in self.sharing.values()]
        return dict(zip(self.layers, keep_best(scores, list(self.costs.values()), self.budget, owners), strict=True))

    def _gather(self):
        return torch.cat([layer.scores.flatten() for layer in self.layers.values()])

    def _scatter(self, mask):
        parts = mask.split([cost.numel() for cost in self.costs.values()])
        return {name: part.view_as(self.costs[name]) for name, part in zip(self.layers, parts, strict=True)}


class LocalPool(Pool):
    """Groups of m scores that keep n each. The layers solve them, together with the product with the weight."""

    def __init__(self, sharing: Sharing, pattern: NM, eps: float | None, straight_through: bool):
        super().__init__(sharing, eps)
        self.straight_through = straight_through
        self.pattern, self.everything, self.target = pattern, pattern.m, pattern.n
        self.asked = pattern.sparsity * self.weights

    def keep(self, u, warmup):
        return self.target  # a warm-up did not help here

    def soft_gates(self, keep, temperature):
        return self.gates(None, temperature)

    def gates(self, threshold, temperature):
        return dict.fromkeys(self.layers, GroupGate(temperature, self.eps, self.straight_through))

    def hard_masks(self):
        return {name: self.pattern.hard_mask(layer.scores, layer.shape) for name, layer in self.layers.items()}

    def _gather(self):
        return torch.cat([self.pattern.groups(layer.scores, layer.shape) for layer in self.layers.values()])

    def _scatter(self, mask):
        parts = zip(self.layers.items(), self._split(mask), strict=True)
        return {name: self.pattern.ungroup(part, layer.shape) for (name, layer), part in parts}

    def _split(self, per_group: Tensor) -> tuple[Tensor, ...]:
        """(G, ...) -> its rows by layer."""
        shapes = (layer.shape for layer in self.layers.values())
        return per_group.split([shape.N * shape.taps * -(-shape.C // self.pattern.m) for shape in shapes])


def make_pools(
    sharing: Sharing, sparsity: float | None, scope: str, eps: float | None, straight_through: bool = False
) -> list[Pool]:
    """One pool for each N:M pattern, and for the other layers one ("global") or one each ("layer").

    Raises:
        ValueError: a value out of its range, or a sparsity that is missing or differs from what the patterns imply.
    """
    if sparsity is not None and not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    if eps is not None and not 0 <= eps < 1:
        raise ValueError(f"eps must be in [0, 1), got {eps}")
    if scope not in ("global", "layer"):
        raise ValueError(f"scope must be 'global' or 'layer', got {scope!r}")
    local: dict[NM, Sharing] = {}
    ranked: Sharing = {}
    for name, layers in sharing.items():
        pattern = layers[name].pattern
        (local.setdefault(pattern, {}) if pattern.local else ranked)[name] = layers
    if ranked and straight_through:
        raise ValueError(f"straight_through is for N:M patterns, got {', '.join(ranked)} with others")
    if ranked and sparsity is None:
        raise ValueError(f"sparsity must be given for {', '.join(ranked)}: their patterns imply none, got None")
    for pattern in () if ranked else local:
        if sparsity is not None and abs(sparsity - pattern.sparsity) > 1e-9:
            raise ValueError(f"{pattern} implies sparsity {pattern.sparsity:g}: give that or none, got {sparsity:g}")
    groups = [ranked] if scope == "global" else [{name: layers} for name, layers in ranked.items()]
    pools: list[Pool] = [RankedPool(group, sparsity, eps) for group in groups if group]
    return pools + [LocalPool(members, pattern, eps, straight_through) for pattern, members in local.items()]
