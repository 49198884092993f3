"""Whether a search learns anything: signal and noise in the gradients of what it trains, and how far they can move it.

``z^2 = T mean(g)^2 / var(g)`` of a score's gradients over T steps is 1 on average where they are noise, with a median
of 0.455. Where the median stays near that, learned scores came out no better than gradual magnitude pruning; where it
was 3.7, they were 7 points ahead (docs/decisions/0101).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

SAMPLE = 4096  # scores of each tensor that are watched; a median needs no more
FEW = 20  # steps that a verdict needs
NOISE = 0.455  # median of a squared normal number
CLEAR = 0.08  # share of z^2 above 4 that noise does not reach; its own is 0.046
SHORT = 5.0  # rate times steps below which a search cannot turn its order round


class Signal:
    """Sums over the gradients of a sample of scores, on their device.

    Args:
        sizes: how many scores each tensor has.
    """

    def __init__(self, sizes: Sequence[int]):
        self.steps = [-(-size // SAMPLE) for size in sizes]
        self.sums = torch.zeros(3, sum(-(-size // step) for size, step in zip(sizes, self.steps, strict=True)))

    @property
    def count(self) -> int:
        """Return how many steps there are sums of; kept with them, as steps of a CUDA graph count there alone."""
        return int(self.sums[0, 0]) if self.sums.numel() else 0

    @torch.no_grad()
    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Take up the gradients of one step, one for each tensor; None of them may be missing to count."""
        if any(gradient is None or hasattr(gradient, "placements") for gradient in gradients):
            return
        sample = torch.cat([g.flatten()[::step] for g, step in zip(gradients, self.steps, strict=True)]).float()
        self.sums = self.sums.to(sample.device)
        self.sums += torch.stack([torch.ones_like(sample), sample, sample.square()])

    def report(self) -> dict[str, float]:
        """Return the median of z^2 and the share above 4, of the scores that had a gradient; nothing before 2 steps."""
        count = self.count
        if count < 2:
            return {}
        mean, square = self.sums[1:].double().cpu() / count
        variance = (square - mean.square()) * count / (count - 1)
        z2 = (count * mean.square() / variance)[variance > 1e-9 * square]
        if not z2.numel():
            return {}
        return {"z2": z2.median().item(), "z2_above_4": (z2 > 4).double().mean().item()}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums."""
        return {"signal": self.sums}

    def load_state_dict(self, taken: dict[str, Any]) -> None:
        """Go on with sums that were kept."""
        self.sums = taken["signal"].clone()

    def verdict(self, rate: float | None, steps: int) -> str:
        """Return why magnitudes would have done as well, in one line, or nothing.

        Args:
            rate: learning rate of the scores, for Adam; None where it is not known.
            steps: length of the search.
        """
        found = self.report()
        so = "; gradual magnitude pruning would have done as well"
        if rate is not None and rate * steps < SHORT:
            return f"the scores could hardly move: rate {rate:g} x {steps} steps is under {SHORT:g}{so}"
        if self.count >= FEW and found and found["z2"] < 2 * NOISE and found["z2_above_4"] < CLEAR:
            return f"the gradients of the scores were mostly noise: median z^2 {found['z2']:.2g}, noise {NOISE}{so}"
        return ""


def rate_of(parameters: Sequence[Tensor], optimizers: Sequence[Optimizer]) -> float | None:
    """Return the largest learning rate that any optimizer has for these parameters; None where none has them."""
    own = {id(parameter) for parameter in parameters}
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return max((float(g["lr"]) for g in groups if any(id(p) in own for p in g["params"])), default=None)
