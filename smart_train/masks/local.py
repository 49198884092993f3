"""Groups that compete by themselves: ``NM`` and its kin."""

import torch
from torch import Tensor

from smart_kernels import NM, GroupGate, WeightShape
from smart_kernels.patterns import keep_n

from .pool import Pool
from .ranks import Ranks
from .shards import check_exact, is_shard
from .sharing import Sharing


class LocalPool(Pool):
    """Groups of m scores that keep n each.

    Soft masks keep n from the start, whatever the progress: a warm-up did not help there. The layers solve them,
    together with the product with the weight. Hard masks follow the progress and keep m, then fewer, then n.
    """

    def __init__(self, sharing: Sharing, pattern: NM, eps: float | None, ranks: Ranks):
        super().__init__(sharing, eps, ranks)
        self.pattern = pattern
        self.everything = pattern.m
        self.target = pattern.n
        self.asked = pattern.sparsity * self.weights

    def soft_gates(self, keep, temperature, straight_through=False):
        gates = self.gates(None, temperature, straight_through)
        if any(is_shard(layer.scores) for layer in self.layers.values()):
            check_exact(self.ranks.model)
            return gates  # groups are within rows: fully_shard brings each layer its scores when it runs
        return self._carrying(self.scores(), gates)

    def soft_masks(self, keep, temperature):
        return super().soft_masks(self.target, temperature)

    def gates(self, threshold, temperature, straight_through=False):
        device = next(iter(self.layers.values())).scores.device
        temperature = torch.full((), temperature, dtype=torch.float64, device=device)
        return dict.fromkeys(self.layers, GroupGate(temperature, self.eps, straight_through))

    def hard_masks(self, keep=None):
        """Return masks of the pattern, or with ``keep`` above n masks that keep that many of every group."""
        return {name: self._hard_mask(scores, self.layers[name].shape, keep) for name, scores in self.scores().items()}

    def _hard_mask(self, scores: Tensor, shape: WeightShape, keep: float | None) -> Tensor:
        if keep is None or keep <= self.pattern.n:
            return self.pattern.hard_mask(scores, shape)
        return self.pattern.ungroup(keep_n(self.pattern.groups(scores, shape), int(keep)), shape)

    def _gather(self, scores):
        return torch.cat([self.pattern.groups(each, self.layers[name].shape) for name, each in scores.items()])

    def _scatter(self, mask):
        parts = zip(self.layers.items(), self._split(mask), strict=True)
        return {name: self.pattern.ungroup(part, layer.shape) for (name, layer), part in parts}

    def _split(self, per_group: Tensor) -> tuple[Tensor, ...]:
        """Split (G, ...) into the rows of each layer."""
        shapes = (layer.shape for layer in self.layers.values())
        return per_group.split([shape.N * shape.taps * -(-shape.C // self.pattern.m) for shape in shapes])
