"""The soft mask of a score: a sigmoid around the threshold."""

import torch
from torch import Tensor


def soft_mask(scores: Tensor, threshold: Tensor, temperature: float | Tensor) -> Tensor:
    """Return ``sigmoid((scores - threshold) / temperature)``; scores of +inf and -inf are pinned to 1 and 0.

    Args:
        scores: any shape.
        threshold: broadcastable against ``scores``; float64 keeps the budget exact at small temperatures.
        temperature: above 0, a number or a 0-d tensor.

    Returns:
        Shape and dtype of ``scores``. NaN scores and NaN thresholds give NaN.
    """
    pinned = scores.isinf() & ~threshold.isnan()
    logits = torch.where(pinned, scores, (scores.double() - threshold) / temperature)
    return logits.to(scores.dtype).sigmoid()
