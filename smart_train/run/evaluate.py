"""How good a model is on the test images."""

import torch
from torch import nn

from smart_train.data import Data
from smart_train.tasks.classification import divergence

BATCH = 250  # test images at a time


@torch.no_grad()
def quality(model: nn.Module, data: Data, device: str = "cpu", limit: int | None = None) -> float:
    """Return how good a model is on the first ``limit`` test images (all: None), in float32, by the data's task.

    For classes that is the percent that is right.
    """
    training = model.training
    model.eval()
    task = data.task
    judged = [task.judge(model(x.to(device)).cpu(), targets) for x, targets in data.test_batches(BATCH, limit)]
    model.train(training)
    return task.quality(judged)


@torch.no_grad()
def agreement(dense: nn.Module, model: nn.Module, data: Data, device: str = "cpu") -> dict[str, float]:
    """Return the percent of test images that both, in eval mode, give the same class, and the mean divergence."""
    same = 0.0
    kl = 0.0
    count = 0
    for images, _ in data.test_batches(BATCH):
        target = dense(images.to(device))
        logits = model(images.to(device))
        same += (target.argmax(1) == logits.argmax(1)).sum().item()
        kl += divergence(target, logits).item() * len(images)
        count += len(images)
    return {"same": 100 * same / count, "kl": kl / count}
