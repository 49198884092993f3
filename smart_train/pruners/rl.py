"""How much to take from each layer, found by trying."""

from typing import Any

import torch
from torch import Tensor

from smart_train.masks import Masks

from .outputs import kept_buffers
from .prepared import PreparedPruner

NOISE = 0.5  # of a trial, over the share that a layer has
CLIP = 0.2  # a share changes by no more than this part in a generation


class RLPruner(PreparedPruner):
    """One-shot pruning with a distribution over the layers that is learned from trials.

    After Wang and Kindratenko, "RL-Pruner: Structured Pruning Using Reinforcement Learning" (arXiv 2411.06463), our
    reading, from its code. Pruning goes in generations. In each, two trials draw noise on the distribution and take
    tiles from the layers by it, the smallest magnitudes first; the loss of a batch, one for the two of them, decides
    which is better; the distribution moves towards it, each share by at most a fifth, and the better trial stays.
    The paper's reward and its replay of older trials are left out. Not for N:M, which leaves layers no choice.

    Args:
        prepare_batches: two trials on each, so a generation counts as a step.
        common: the arguments of ``Pruner``.
    """

    title = "RL-Pruner"
    usual_batches = 8

    def check(self, masked):
        local = [name for name, layer in masked.layers.items() if layer.pattern.local]
        if local:
            raise ValueError(f"{self.title} must have layers to choose among, got N:M groups in {', '.join(local)}")

    @torch.no_grad()
    def measure(self, batches, loss):
        self.masked.score_by_magnitude()
        order = {name: _ranks(layer.scores) for name, layer in self.layers.items()}
        sizes = torch.tensor([float(ranks.numel()) for ranks in order.values()])
        shares = sizes / sizes.sum()
        generator = torch.Generator().manual_seed(0)
        taken = torch.zeros_like(sizes)
        gone = self.pools[0].asked / self.pools[0].weights * sizes.sum()
        with kept_buffers(self.model):
            for batch in batches:
                trials = [noised(shares, generator) for _ in range(2)]
                after = [(taken + trial * gone / len(batches)).minimum(sizes - 1) for trial in trials]
                losses = [self._loss_without(order, each, loss, batch) for each in after]
                best = losses.index(min(losses))
                taken = after[best]
                shares = towards(shares, trials[best])
        self.masked.set_gates(dict.fromkeys(self.layers))
        return {name: _scores(ranks, lost) for (name, ranks), lost in zip(order.items(), taken.tolist(), strict=True)}

    def _loss_without(self, order: Masks, taken: Tensor, loss: Any, batch: Any) -> float:
        counts = dict(zip(order, taken.tolist(), strict=True))
        self.masked.set_masks({name: (ranks >= counts[name]).float() for name, ranks in order.items()})
        return float(loss(*batch))

    def search(self):
        self.harden()


def noised(shares: Tensor, generator: torch.Generator) -> Tensor:
    """Return a distribution near another one."""
    noise = torch.randn(shares.shape, generator=generator) * torch.rand(shares.shape, generator=generator)
    found = (shares * (1 + NOISE * noise)).clamp_min(1e-5)
    return found / found.sum()


def towards(shares: Tensor, best: Tensor) -> Tensor:
    """Return the distribution moved to the better one, each share by no more than ``CLIP`` of itself."""
    moved = shares * (best / shares).clamp(1 - CLIP, 1 + CLIP)
    return moved / moved.sum()


def _ranks(scores: Tensor) -> Tensor:
    """Return 0 for the smallest score, 1 for the next."""
    return scores.flatten().argsort(stable=True).argsort().view_as(scores).float()


def _scores(ranks: Tensor, lost: float) -> Tensor:
    """Return what ranks tiles of all layers as the trials left them: above 0 what they kept."""
    return torch.where(ranks >= lost, (ranks - lost) / (ranks.numel() - lost), (ranks - lost) / max(lost, 1))
