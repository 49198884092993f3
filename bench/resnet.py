"""ResNet-50 (arXiv 1512.03385) in plain PyTorch, for speed."""

import torch.nn.functional as F
from torch import Tensor, nn

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # blocks, width inside of them


class ResNet(nn.Sequential):
    """(B, 3, H, W) -> (B, classes)."""

    def __init__(self, stages: tuple[tuple[int, int], ...] = STAGES, classes: int = 1000):
        layers = [_conv(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
        inputs = 64
        for stage, (blocks, width) in enumerate(stages):
            for block in range(blocks):
                layers.append(Bottleneck(inputs, width, 2 if stage and not block else 1))
                inputs = 4 * width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the width, added to the input."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.reduce = _conv(inputs, width)
        self.spatial = _conv(width, width, 3, stride)
        self.expand = _conv(width, 4 * width)
        self.shortcut = _conv(inputs, 4 * width, 1, stride) if stride > 1 or inputs != 4 * width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(F.relu(self.spatial(F.relu(self.reduce(x)))))
        return F.relu(y + self.shortcut(x))


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))
