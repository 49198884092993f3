"""Image models of the kind people prune: a model is a file, and a line in one table; and those of other people."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from smart_train.reference import FORM, is_reference

from . import others
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
OTHERS = {"timm": others.timm, "hf": others.huggingface}


def build(name: str, channels: int, size: int, classes: int, seed: int = 0) -> nn.Module:
    """Return a freshly initialised model, mobilenet_v2 with weights from ImageNet.

    The same seed gives the same weights.

    Args:
        name: a key of ``MODELS``, ``timm:NAME``, ``hf:PATH`` or ``package.module:function``.
        channels, size, classes: of the images.

    Raises:
        ValueError: for an unknown name, or ImageNet weights that are not installed.
    """
    torch.manual_seed(seed)
    return _builder(name)(channels, size, classes)


def names() -> list[str]:
    """Return the models as the command line writes them."""
    return [*MODELS, *others.KINDS, FORM]


def _builder(name: str) -> Callable[[int, int, int], nn.Module]:
    kind, _, argument = name.partition(":")
    if name in MODELS:
        return MODELS[name]
    if kind in OTHERS and argument:
        return partial(OTHERS[kind], argument)
    if is_reference(name):
        return partial(others.own, name)
    raise ValueError(f"model must be one of {', '.join(names())}, got {name!r}")
