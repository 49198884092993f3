"""A mobile-style CNN for small pictures."""

from collections import OrderedDict

from torch import nn


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return _named(conv=convolution, norm=nn.BatchNorm2d(outputs), relu=nn.ReLU(inplace=True))


def _separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return _named(depthwise=_conv(inputs, inputs, 3, stride, groups=inputs), pointwise=_conv(inputs, outputs, 1))


def _named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def cnn(channels: int, size: int, classes: int, width: int = 256) -> nn.Sequential:
    """Return stem, five depthwise-separable stages, mean pool, classifier: the shape of MobileNet for small pictures.

    As there, the 1x1 convolutions hold nearly all weights, and the last ones most of them.
    """
    large = 2 if size > 16 else 1
    return _named(
        stem=_conv(channels, width // 2, 3, large),
        stage1=_separable(width // 2, width, 2),
        stage2=_separable(width, width),
        stage3=_separable(width, 2 * width, 2),
        stage4=_separable(2 * width, 4 * width, large),
        stage5=_separable(4 * width, 4 * width),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        head=nn.Linear(4 * width, classes),
    )
