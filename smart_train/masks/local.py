"""Groups that compete by themselves: ``NM`` and its kin."""

from dataclasses import replace

import torch
from torch import Tensor

from smart_kernels import NM, GroupGate, WeightShape, soft_topk
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

    def gates(self, temperature: Tensor, straight_through: bool = False) -> dict[str, GroupGate]:
        """Return the gates of soft masks, which carry the scores where those are not the layers' own.

        Args:
            temperature: 0-d float64, above 0, in units of the scores.
            straight_through: multiply by the hard mask, with the gradient of the soft one.
        """
        gate = GroupGate(temperature, self.eps, straight_through)
        gates = dict.fromkeys(self.layers, gate)
        if any(is_shard(layer.scores) for layer in self.layers.values()):
            check_exact(self.ranks.model)
            return gates  # groups are within rows: fully_shard brings each layer its scores when it runs
        scores = self.scores()
        own = all(scores[name] is layer.scores for name, layer in self.layers.items())
        return gates if own else {name: replace(gate, scores=scores[name]) for name in gates}

    @torch.no_grad()
    def soft_masks(self, temperature: Tensor) -> dict[str, Tensor]:
        """Return (rows, cols) soft masks for the scores as they are now."""
        found = {}
        for name, scores in self.scores().items():
            shape = self.layers[name].shape
            mask, _ = soft_topk(self.pattern.groups(scores, shape), self.target, temperature)
            found[name] = self.pattern.ungroup(mask, shape)
        return found

    def hard_masks(self, keep=None):
        """Return masks of the pattern, or with ``keep`` above n masks that keep that many of every group."""
        return {name: self._hard_mask(scores, self.layers[name].shape, keep) for name, scores in self.scores().items()}

    def _hard_mask(self, scores: Tensor, shape: WeightShape, keep: float | None) -> Tensor:
        if keep is None or keep <= self.pattern.n:
            return self.pattern.hard_mask(scores, shape)
        return self.pattern.ungroup(keep_n(self.pattern.groups(scores, shape), int(keep)), shape)
