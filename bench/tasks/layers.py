"""What the models of all tasks are made of."""

from torch import nn


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution with BatchNorm and ReLU."""
    weights = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(weights, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
