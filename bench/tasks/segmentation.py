"""A class for each pixel: a small U-Net, and the mean intersection over union."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_train.tasks import Task

from .layers import convolution


class Segmentation(Task):
    """Outputs are (n, classes, h, w) logits, targets (n, h, w) classes, 0 for the background."""

    metric = "mIoU, %"

    def loss(self, outputs, targets):
        return F.cross_entropy(outputs, targets.long())

    def judge(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the (classes, classes) count of pixels, by their true class and by the one that was found."""
        classes = outputs.shape[1]
        pairs = targets.long() * classes + outputs.argmax(1)
        return pairs.flatten().bincount(minlength=classes**2).view(classes, classes)

    def quality(self, judged):
        return 100 * mean_iou(torch.stack(list(judged)).sum(0))


def mean_iou(confusion: Tensor) -> float:
    """Return the mean over classes of the pixels that are right over those that are or were found to be of the class.

    Args:
        confusion: (classes, classes) pixels by true class and by found class. Classes without any do not count.
    """
    right = confusion.diagonal().double()
    union = confusion.sum(0) + confusion.sum(1) - right
    return (right[union > 0] / union[union > 0]).mean().item()


class UNet(nn.Module):
    """Down to an eighth of the picture and up again to half of it, with sums instead of concatenations."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.fine = convolution(channels, 16, stride=2)
        self.middle = convolution(16, 32, stride=2)
        self.coarse = nn.Sequential(convolution(32, 64, stride=2), convolution(64, 64), convolution(64, 64))
        self.to_middle = nn.Conv2d(64, 32, 1)
        self.at_middle = convolution(32, 32)
        self.to_fine = nn.Conv2d(32, 16, 1)
        self.at_fine = convolution(16, 16)
        self.head = nn.Conv2d(16, 4 * classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(images)
        middle = self.middle(fine)
        up = self.to_middle(self.coarse(middle))
        middle = self.at_middle(middle + F.interpolate(up, scale_factor=2.0))
        fine = self.at_fine(fine + F.interpolate(self.to_fine(middle), scale_factor=2.0))
        return F.pixel_shuffle(self.head(fine), 2)


def unet(channels: int, classes: int) -> nn.Module:
    """Return a fresh U-Net of 112,000 weights."""
    return UNet(channels, classes)
