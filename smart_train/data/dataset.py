"""Images in memory, handed out in batches."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from smart_train.tasks import Classification, Task


@dataclass(frozen=True, eq=False)
class Data:
    """Pictures as bytes, (n, channels, size, size); ``batch`` and ``test`` hand them out normalised.

    Args:
        train, test: (images uint8, labels int64); for a task other than classes, (images uint8, its targets).
        classes: names, in the order of the labels.
        task: what the targets are for.
    """

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: tuple[str, ...]
    task: Task = field(default_factory=Classification)

    @property
    def channels(self) -> int:
        """Of each picture: 1 grey, 3 coloured."""
        return self.train[0].shape[1]

    @property
    def size(self) -> int:
        """Height and width of the pictures."""
        return self.train[0].shape[-1]

    def normalise(self, images: Tensor) -> Tensor:
        """Return images as float32 with the mean 0 and the deviation 1 that the training images have."""
        mean, std = _statistics(self)
        return (images.float() - mean.to(images.device)) / std.to(images.device)

    def batch(self, step: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return training batch number ``step``.

        It is a function of (step, size, seed) alone, so a resumed run sees the same data.

        Returns:
            (size, channels, h, w) float32 and their labels. Each epoch has its own order and leaves out a short rest.

        Raises:
            ValueError: when the training set is smaller than one batch.
        """
        images, labels = self.train
        per_epoch = len(labels) // size
        if per_epoch == 0:
            raise ValueError(f"batch must be at most the {len(labels)} training images of {self.name}, got {size}")
        epoch, position = divmod(step, per_epoch)
        picked = _order(len(labels), seed, epoch)[position * size : (position + 1) * size]
        return self.normalise(images[picked]), labels[picked]

    def test_batches(self, size: int, limit: int | None = None):
        """Yield the first ``limit`` test images (all: None), normalised, in batches of at most ``size``."""
        images, labels = (part[:limit] for part in self.test)
        for start in range(0, len(labels), size):
            yield self.normalise(images[start : start + size]), labels[start : start + size]


@lru_cache(maxsize=8)
def _statistics(data: Data) -> tuple[Tensor, Tensor]:
    images = data.train[0]
    sample = images[:: max(1, len(images) // 5000)].float()
    return sample.mean((0, 2, 3)).view(-1, 1, 1), sample.std((0, 2, 3)).clamp(min=1.0).view(-1, 1, 1)


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(count))
