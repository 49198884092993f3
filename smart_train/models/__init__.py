"""Image models of the kind people prune: a model is a file, and a line in one table."""

from functools import partial

import torch
from torch import nn

from .cnn import cnn
from .convnet import convnet
from .mobilenet import mobilenet_small, mobilenet_v2
from .vit import ViT

MODELS = {  # (channels, size, classes) -> model
    "cnn": cnn,
    "vit": ViT,
    "mobilenet_v2": mobilenet_v2,
    "cnn-tiny": partial(cnn, width=32),
    "convnet": convnet,
    "vit-small": partial(ViT, width=64, depth=2, ratio=2),
    "mobilenet-small": mobilenet_small,
    "vit-tiny": partial(ViT, width=64, depth=1, ratio=2),
}


def build(name: str, channels: int, size: int, classes: int, seed: int = 0) -> nn.Module:
    """Return a freshly initialised model, mobilenet_v2 with weights from ImageNet.

    The same seed gives the same weights.

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
