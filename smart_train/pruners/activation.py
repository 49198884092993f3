"""Channels by what their activations mean to the loss of the task."""

import torch
from torch import Tensor

from .outputs import by_path, channels_last, check_channels, kept_buffers, watched
from .prepared import PreparedPruner


class ActivationPruner(PreparedPruner):
    """One-shot pruning of channels by ``relu(a * -dloss/da)``, added up over positions, for detectors too.

    After Choi and Tian, "Visual Saliency-Guided Channel Pruning for Deep Visual Detectors" (IEEE IV 2023, arXiv
    2303.02512), our reading: the paper's formula is not known to us, this one is in the manner of Grad-CAM. The loss is
    that of the task, whatever it is. Scores are averaged over images and divided by the mean of their layer.
    For ``Channel``.

    Args:
        prepare_batches: how many batches to look at.
        common: the arguments of ``Pruner``.
    """

    title = "activation saliency"

    def check(self, masked):
        check_channels(self.title, masked)

    def measure(self, batches, loss):
        layers = by_path(self.masked)
        found = {name: torch.zeros_like(layer.scores) for name, layer in self.layers.items()}
        seen: list[tuple[str, Tensor]] = []
        with kept_buffers(self.model), watched(layers, lambda name, output: seen.append((name, output))):
            for batch in batches:
                seen.clear()
                gradients = torch.autograd.grad(loss(*batch), [output for _, output in seen])
                for (path, output), gradient in zip(seen, gradients, strict=True):
                    layer = layers[path]
                    helped = helping(channels_last(layer, output), channels_last(layer, gradient))
                    helped = helped / helped.mean().clamp_min(1e-30)
                    found[path.partition("/")[0]] += layer.per_score(helped.unsqueeze(1).float())
        return found

    def search(self):
        self.harden()


def helping(output: Tensor, gradient: Tensor) -> Tensor:
    """Return (N,) how much the channels of (..., N) outputs keep the loss down, counting where they do only."""
    return (output * -gradient).clamp_min(0).flatten(0, -2).sum(0)
