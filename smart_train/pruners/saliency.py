"""Gather what the loss says of each tile: from batches shown beforehand, or in the last steps of dense training."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from smart_train.masks import MaskedModel, Masks, standardised

from .outputs import kept_buffers

DEEP = 12  # pruned layers from which their sensitivities differ more than magnitudes can tell; docs/decisions/0100


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
    ones = masks_of_ones(masked)
    found = {name: torch.zeros_like(mask) for name, mask in ones.items()}
    with _measuring(masked, ones):
        for batch in batches:
            gradients = torch.autograd.grad(loss(*batch), list(ones.values()), materialize_grads=True)
            for total, gradient in zip(found.values(), gradients, strict=True):
                total += gradient.square()
    return found


def masks_of_ones(masked: MaskedModel) -> Masks:
    """Return (rows, cols) masks that prune nothing and have a gradient."""
    return {name: torch.ones_like(layer.scores).requires_grad_() for name, layer in masked.layers.items()}


@contextmanager
def _measuring(masked: MaskedModel, masks: Masks) -> Iterator[None]:
    """Put masks on the model; it and its buffers are as before in the end."""
    masked.set_masks(masks)
    try:
        with kept_buffers(masked.model):
            yield
    finally:
        masked.set_gates(dict.fromkeys(masked.layers))


@torch.no_grad()
def start_from_saliency_(masked: MaskedModel) -> None:
    """Turn sums of squares in the scores into their roots, standardised over all tiles of each pool.

    Not per layer, as magnitudes are: how much more one layer matters than another is what saliency knows.
    """
    for pool in masked.pools:
        roots = [layer.scores.clamp_min(0).sqrt() for layer in pool.layers.values()]
        flat = standardised(torch.cat([root.flatten() for root in roots]))
        parts = flat.split([root.numel() for root in roots])
        for layer, part in zip(pool.layers.values(), parts, strict=True):
            layer.scores.copy_(part.view_as(layer.scores))
    masked.start_scores_()


def layers_differ(masked: MaskedModel) -> bool:
    """Return whether magnitudes, standardised per layer, hide how differently the layers matter.

    True for models with depthwise convolutions and at least ``DEEP`` pruned layers in one budget.
    """
    deepest = max((len(pool.layers) for pool in masked.pools if not _local(pool.layers)), default=0)
    return deepest >= DEEP and any(map(_depthwise, masked.model.modules()))


def _local(layers: dict) -> bool:
    return any(layer.pattern.local for layer in layers.values())


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
