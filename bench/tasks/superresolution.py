"""Large pictures from small ones: residual blocks without BatchNorm, and the signal to noise."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_train.tasks import Task

FACTOR = 4  # of height and width
WIDTH = 48
BRIGHT = 255.0


class SuperResolution(Task):
    """Outputs are (n, 1, h, w) pictures over ``BRIGHT``, targets the pictures in bytes."""

    metric = "PSNR, dB"

    def loss(self, outputs, targets):
        return F.l1_loss(outputs, targets.float() / BRIGHT)

    def judge(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return (n,) dB."""
        return signal_to_noise(outputs.float() * BRIGHT, targets.float())

    def quality(self, judged):
        return torch.cat(list(judged)).mean().item()


def signal_to_noise(pictures: Tensor, truth: Tensor) -> Tensor:
    """Return (n,): 10 log10(255^2 / mean squared error) in dB, with pictures rounded and cut to what bytes can hold."""
    error = (pictures.round().clamp(0, BRIGHT) - truth).square().flatten(1).mean(1)
    return 10 * (BRIGHT**2 / error.clamp_min(1e-10)).log10()


def small(pictures: Tensor) -> Tensor:
    """Return (n, 1, h, w) bytes as means over ``FACTOR`` x ``FACTOR`` pixels."""
    return F.avg_pool2d(pictures.float(), FACTOR).round().to(torch.uint8)


class Block(nn.Module):
    """Two convolutions, added to their input."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class Enlarger(nn.Module):
    """Features at the small size, whose channels become the pixels; added to the picture, enlarged evenly.

    After Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution" (CVPR Workshops 2017).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.head = nn.Conv2d(channels, WIDTH, 3, padding=1)
        self.blocks = nn.Sequential(Block(WIDTH), Block(WIDTH))
        self.tail = nn.Conv2d(WIDTH, channels * FACTOR**2, 3, padding=1)
        self.light = nn.Parameter(torch.tensor([0.25, 0.25]))  # from normalised pictures to their light

    def forward(self, images: Tensor) -> Tensor:
        plain = F.interpolate(images, scale_factor=float(FACTOR), mode="bilinear") * self.light[0] + self.light[1]
        return plain + F.pixel_shuffle(self.tail(self.blocks(F.relu(self.head(images)))), FACTOR)


def enlarger(channels: int) -> nn.Module:
    """Return a fresh network of 91,000 weights."""
    return Enlarger(channels)
