"""ResNet-50 (arXiv 1512.03385) in plain PyTorch, for speed; and what a dense one is fused by hand."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_kernels import fold_batchnorm_

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


class FusedBottleneck(Bottleneck):
    """The same where each convolution, what is added and the ReLU are one call of cuDNN."""

    def forward(self, x: Tensor) -> Tensor:
        y = conv_relu(self.spatial[0], conv_relu(self.reduce[0], x))
        return conv_relu(self.expand[0], y, self.shortcut(x))


def fused(resnet: ResNet) -> ResNet:
    """Return a dense copy for inference with BatchNorms folded and ReLUs and residuals in the convolutions."""
    resnet = copy.deepcopy(resnet).eval().to(memory_format=torch.channels_last)
    fold_batchnorm_(resnet)
    for module in resnet.modules():
        if type(module) is Bottleneck:
            module.__class__ = FusedBottleneck
    return resnet


def conv_relu(conv: nn.Conv2d, x: Tensor, other: Tensor | None = None) -> Tensor:
    """Return ``relu(conv(x) + other)``."""
    if not x.is_cuda:
        return F.relu(conv(x) if other is None else conv(x) + other)
    geometry = conv.stride, conv.padding, conv.dilation, conv.groups
    if other is None:
        return torch.cudnn_convolution_relu(x, conv.weight, conv.bias, *geometry)
    return torch.cudnn_convolution_add_relu(x, conv.weight, other, 1.0, conv.bias, *geometry)
