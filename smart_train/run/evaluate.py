"""What a pruned model is worth on the test images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_train.data import Data


@torch.no_grad()
def accuracy(model: nn.Module, data: Data, device: str = "cpu", limit: int | None = None) -> float:
    """Percent of the first ``limit`` test images (all: None) that ``model`` gets right, in float32."""
    training = model.training
    model.eval()
    right = count = 0
    for images, labels in data.test_batches(250, limit):
        right += (model(images.to(device)).argmax(1).cpu() == labels).sum().item()
        count += len(labels)
    model.train(training)
    return 100 * right / count


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """Mean over the images of KL(softmax(target) || softmax(logits)), in nats, for (images, classes) logits."""
    return F.kl_div(logits.log_softmax(1), target.log_softmax(1), reduction="batchmean", log_target=True)


@torch.no_grad()
def agreement(dense: nn.Module, model: nn.Module, data: Data, device: str = "cpu") -> dict[str, float]:
    """Over the test images: percent to which both, in eval mode, give the same class, and the mean divergence."""
    same = kl = count = 0.0
    for images, _ in data.test_batches(250):
        target, logits = dense(images.to(device)), model(images.to(device))
        same += (target.argmax(1) == logits.argmax(1)).sum().item()
        kl += divergence(target, logits).item() * len(images)
        count += len(images)
    return {"same": 100 * same / count, "kl": kl / count}
