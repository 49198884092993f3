"""Pruning at once, by what the loss says of each tile."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from smart_kernels import Pattern
from smart_train.masks import MaskedModel, Masks
from smart_train.plans import Plan

from .oneshot import OneShotPruner


def saliency(masked: MaskedModel, batches: Sequence[Sequence[Any]], loss: Callable[..., Tensor]) -> Masks:
    """Return for each tile the sum over the batches of ``(sum over its weights of w * dloss/dw)^2``.

    To first order, ``sum w * dloss/dw`` is how much the loss falls when the tile is removed. It is the gradient of a
    mask of ones, so weights that layers share and channels that run through several are summed as they are masked.
    Buffers of the model, such as the averages of a BatchNorm, come out as they went in.

    Args:
        masked: without masks yet, in the mode (train or eval) that is wanted.
        batches, loss: see ``Pruner.prepare``.

    Returns:
        (rows, cols) float32 by layer.
    """
    ones = {name: torch.ones_like(layer.scores).requires_grad_() for name, layer in masked.layers.items()}
    found = {name: torch.zeros_like(mask) for name, mask in ones.items()}
    with _measuring(masked, ones):
        for batch in batches:
            gradients = torch.autograd.grad(loss(*batch), list(ones.values()), materialize_grads=True)
            for total, gradient in zip(found.values(), gradients, strict=True):
                total += gradient.square()
    return found


@contextmanager
def _measuring(masked: MaskedModel, masks: Masks) -> Iterator[None]:
    """Put masks on the model; it and its buffers are as before in the end."""
    before = {name: buffer.clone() for name, buffer in masked.model.named_buffers()}
    masked.set_masks(masks)
    try:
        yield
    finally:
        masked.set_gates(dict.fromkeys(masked.layers))
        for name, buffer in masked.model.named_buffers():
            buffer.copy_(before[name])


class TaylorPruner(OneShotPruner):
    """One-shot pruning by first-order Taylor saliency, ranked over all layers.

    After Molchanov et al., "Importance Estimation for Neural Network Pruning" (CVPR 2019, arXiv 1906.10771): the
    squared first-order contribution of a group of weights to the loss, summed over batches, needs no scale per layer.
    Our reading, from the abstract and from memory: groups are tiles or single weights and not filters only, all are
    removed at once instead of a few between steps of training, and four batches are enough by default.

    ``prepare`` has to be called before the first step.

    Args:
        prepare_batches: how many batches to gather it from.
        common: the arguments of ``Pruner``.
    """

    title = "one-shot Taylor"
    options = ("prepare_batches",)
    prepared = False

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | Plan | None = None,
        sparsity: float | None = None,
        *,
        prepare_batches: int = 4,
        **common: Any,
    ):
        if prepare_batches < 1:
            raise ValueError(f"prepare_batches must be at least 1, got {prepare_batches}")
        self.prepare_batches = prepare_batches
        super().__init__(model, pattern, sparsity, **common)

    def prepare(self, batches, loss):
        if not batches:
            raise ValueError("prepare must be given at least one batch, got none")
        found = saliency(self.masked, batches, loss)
        self.masked.ranks.mean_(list(found.values()))
        for name, layer in self.layers.items():
            layer.scores.data.copy_(found[name])
        self.prepared = True

    def start(self):
        if not self.prepared:
            raise ValueError("prepare(batches, loss) must come before the first step of Taylor pruning, got none")

    def state_dict(self):
        return super().state_dict() | {"prepared": self.prepared}

    def load_state_dict(self, taken):
        super().load_state_dict(taken)
        self.prepared = taken["prepared"]
