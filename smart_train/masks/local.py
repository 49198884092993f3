"""Groups that compete by themselves: ``NM`` and its kin."""

import torch
from torch import Tensor

from smart_kernels import NM, GroupGate
from smart_kernels.patterns import keep_n

from .pool import Pool
from .sharing import Sharing


class LocalPool(Pool):
    """Groups of m scores that keep n each.

    Soft masks keep n from the start, whatever the progress: a warm-up did not help there. The layers solve them,
    together with the product with the weight. Hard masks follow the progress and keep m, then fewer, then n.
    """

    def __init__(self, sharing: Sharing, pattern: NM, eps: float | None = None):
        super().__init__(sharing, eps)
        self.pattern = pattern
        self.everything = pattern.m
        self.target = pattern.n
        self.asked = pattern.sparsity * self.weights

    def soft_gates(self, keep, temperature, straight_through=False):
        return self.gates(None, temperature, straight_through)

    def soft_masks(self, keep, temperature):
        return super().soft_masks(self.target, temperature)

    def gates(self, threshold, temperature, straight_through=False):
        device = next(iter(self.layers.values())).scores.device
        temperature = torch.full((), temperature, dtype=torch.float64, device=device)
        return dict.fromkeys(self.layers, GroupGate(temperature, self.eps, straight_through))

    def hard_masks(self, keep=None):
        """Return masks of the pattern, or with ``keep`` above n masks that keep that many of every group."""
        pattern = self.pattern
        if keep is None or keep <= pattern.n:
            return {name: pattern.hard_mask(layer.scores, layer.shape) for name, layer in self.layers.items()}
        found = {}
        for name, layer in self.layers.items():
            best = keep_n(pattern.groups(layer.scores, layer.shape), int(keep))
            found[name] = pattern.ungroup(best, layer.shape)
        return found

    def _gather(self):
        return torch.cat([self.pattern.groups(layer.scores, layer.shape) for layer in self.layers.values()])

    def _scatter(self, mask):
        parts = zip(self.layers.items(), self._split(mask), strict=True)
        return {name: self.pattern.ungroup(part, layer.shape) for (name, layer), part in parts}

    def _split(self, per_group: Tensor) -> tuple[Tensor, ...]:
        """Split (G, ...) into the rows of each layer."""
        shapes = (layer.shape for layer in self.layers.values())
        return per_group.split([shape.N * shape.taps * -(-shape.C // self.pattern.m) for shape in shapes])
