"""One class for each image."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .task import Task


class Classification(Task):
    """Outputs are (images, classes) logits, targets (images,) int64."""

    metric = "accuracy"

    def loss(self, outputs, targets):
        return F.cross_entropy(outputs, targets)

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[int, int]:
        """Return how many are right, of how many."""
        return (outputs.argmax(1) == targets).sum().item(), len(targets)

    def quality(self, judged: Sequence[tuple[int, int]]) -> float:
        """Return the percent that is right."""
        return 100 * sum(right for right, _ in judged) / sum(count for _, count in judged)

    def imitation(self, wanted, outputs):
        return divergence(wanted, outputs)


def divergence(wanted: Tensor, logits: Tensor) -> Tensor:
    """Return KL(softmax(wanted) || softmax(logits)) of (images, classes) logits, the mean over the images, in nats."""
    return F.kl_div(logits.log_softmax(1), wanted.log_softmax(1), reduction="batchmean", log_target=True)
