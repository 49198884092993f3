"""How good a model is on the test images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_train.data import Data


@torch.no_grad()
def accuracy(model: nn.Module, data: Data, device: str = "cpu", limit: int | None = None) -> float:
    """Return the percent of the first ``limit`` test images (all: None) that ``model`` gets right, in float32."""
    training = model.training
    model.eval()
    right = 0
    count = 0
    for images, labels in data.test_batches(250, limit):
        right += (model(images.to(device)).argmax(1).cpu() == labels).sum().item()
        count += len(labels)
    model.train(training)
    return 100 * right / count


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """Return KL(softmax(target) || softmax(logits)) of (images, classes) logits, the mean over the images, in nats."""
    return F.kl_div(logits.log_softmax(1), target.log_softmax(1), reduction="batchmean", log_target=True)


@torch.no_grad()
def agreement(dense: nn.Module, model: nn.Module, data: Data, device: str = "cpu") -> dict[str, float]:
    """Return the percent of test images that both, in eval mode, give the same class, and the mean divergence."""
    same = 0.0
    kl = 0.0
    count = 0
    for images, _ in data.test_batches(250):
        target = dense(images.to(device))
        logits = model(images.to(device))
        same += (target.argmax(1) == logits.argmax(1)).sum().item()
        kl += divergence(target, logits).item() * len(images)
        count += len(images)
    return {"same": 100 * same / count, "kl": kl / count}
