"""The length and the learning rate of a training."""

import math
from dataclasses import dataclass

RAMP = 20  # steps over which the learning rate rises at the start of a training; AdamW on a fresh ViT needs it


def lr_factor(step: int, flat: int, steps: int) -> float:
    """Return 1 for the first ``flat`` steps (after a short ramp), then half a cosine down to 0 at ``steps``."""
    ramp = min(1.0, (step + 1) / RAMP)
    if step < flat:
        return ramp
    return ramp * 0.5 * (1 + math.cos(math.pi * (step - flat) / (steps - flat)))


@dataclass(frozen=True)
class Course:
    """The length of a training, the batches it sees, and its learning rate.

    Args:
        passes: over a batch, in all: optimizer steps, and what the pruner looks at before the first of them.
        flat: steps with a constant learning rate, before it falls to 0.
        seen: batches that an earlier training has used up.
        lr: peak learning rate of the weights; None for that of the recipe.
    """

    passes: int
    flat: int = 0
    seen: int = 0
    lr: float | None = None
