"""Magnitude masks in each step, and a gradient for what they hide."""

from typing import Any

import torch
from torch import nn

from smart_kernels import Pattern
from smart_train.checks import check_number
from smart_train.masks import per_weight
from smart_train.plans import Plan

from .base import Pruner

HIDDEN = 1e-12  # instead of 0 in a mask: too little to count, enough to carry a gradient


class SRSTEPruner(Pruner):
    """SR-STE: the largest weights are used, all get the gradient of the masked ones, and hidden ones also shrink.

    Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch" (ICLR 2021, arXiv
    2102.04010), from memory: ``gradient(w) = dloss/dw_masked + decay (1 - mask) w``, with the mask of the weights as
    they are in this step, at the final budget from the first step on. Made for N:M; for tiles it is our reading, with
    the scores of one-shot pruning. Not for channels, whose BatchNorm lets no gradient through where they are hidden.
    ``after_backward`` has to be called.

    Args:
        decay: of hidden weights.
        common: the arguments of ``Pruner``.
    """

    title = "SR-STE"
    options = ("decay",)

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | Plan | None = None,
        sparsity: float | None = None,
        *,
        decay: float = 2e-4,
        **common: Any,
    ):
        check_number("decay", decay, least=0)
        self.decay = decay
        super().__init__(model, pattern, sparsity, **common)

    def check(self, masked):
        whole = [name for name, layer in masked.layers.items() if layer.pattern.whole_channels]
        if whole:
            raise ValueError(f"{self.title} must have patterns of tiles or N:M, got channels of {', '.join(whole)}")

    def search(self):
        self.masked.score_by_magnitude()
        self.masked.set_masks({name: mask.clamp_min(HIDDEN) for name, mask in self.masked.hard_masks().items()})

    def masks(self):
        return {name: (mask > HIDDEN).float() for name, mask in super().masks().items()}

    @torch.no_grad()
    def after_backward(self):
        if self.stage != "search":
            return
        done = set()
        for layers in self.masked.sharing.values():
            for layer in layers.values():
                weight = layer.raw_weight
                if weight.grad is not None and id(weight) not in done:
                    done.add(id(weight))
                    mask = per_weight(layer, layer.gate.mask).to(weight.grad)
                    weight.grad.div_(mask).add_((mask < 1) * weight, alpha=self.decay)

    def harden(self):
        if self.stage == "search":
            self.masked.score_by_magnitude()
        super().harden()
