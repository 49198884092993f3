"""Two small image models of the kind people prune: a mobile-style CNN and a vision transformer."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_train.mobilenet import mobilenet_v2


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return _named(conv=convolution, norm=nn.BatchNorm2d(outputs), relu=nn.ReLU(inplace=True))


def _separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return _named(depthwise=_conv(inputs, inputs, 3, stride, groups=inputs), pointwise=_conv(inputs, outputs, 1))


def _named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def cnn(channels: int, size: int, classes: int, width: int = 256) -> nn.Sequential:
    """Stem, five depthwise-separable stages, mean pool, classifier: the shape of MobileNet for small pictures.

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


class Attention(nn.Module):
    """Multi-head self-attention over (batch, tokens, width), of two plain Linear layers."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class EncoderBlock(nn.Module):
    """Pre-norm transformer block over (batch, tokens, width)."""

    def __init__(self, width: int, heads: int, ratio: int):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, ratio * width), nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.relu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """Vision transformer on a grid of 4 x 4 patches, mean-pooled."""

    GRID = 4

    def __init__(self, channels: int, size: int, classes: int, width: int = 256, depth: int = 2, ratio: int = 4):
        super().__init__()
        if size % self.GRID:
            raise ValueError(f"image size must be divisible by {self.GRID} for the vit, got {size}")
        patch = size // self.GRID
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.position = nn.Parameter(torch.randn(1, self.GRID**2, width) * 0.02)
        self.blocks = nn.Sequential(*(EncoderBlock(width, width // 32, ratio) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(1))


MODELS = {
    "cnn": cnn,
    "vit": ViT,
    "mobilenet_v2": mobilenet_v2,
    "cnn-tiny": lambda *data: cnn(*data, width=32),
    "vit-tiny": lambda *data: ViT(*data, width=64, depth=1, ratio=2),
}


def build(name: str, channels: int, size: int, classes: int, seed: int = 0) -> nn.Module:
    """A freshly initialised model, mobilenet_v2 with weights from ImageNet; the same seed gives the same weights.

    Args:
        name: a key of ``MODELS``.
        channels, size, classes: of the images.

    Raises:
        ValueError: for an unknown name, or ImageNet weights that are not installed.
    """
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    torch.manual_seed(seed)
    return MODELS[name](channels, size, classes)
