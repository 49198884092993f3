"""Plain 3x3 convolutions for small pictures."""

from torch import nn

WIDTHS = (32, 64, 128)


def convnet(channels: int, size: int, classes: int) -> nn.Sequential:
    """Return three 3x3 convolutions with BatchNorm, each halving the picture (above 8), and a classifier."""
    layers: list[nn.Module] = []
    strides = (2 if size > 8 else 1, 2, 2)
    for inputs, outputs, stride in zip((channels, *WIDTHS), WIDTHS, strides, strict=False):
        convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], classes))
