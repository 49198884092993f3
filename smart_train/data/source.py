"""The request that a source of images gets, and its answer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Labelled = tuple[Tensor, Tensor]  # images uint8 (n, channels, size, size), labels int64 (n,)
VALIDATION = "validation"
HELD_OUT = ("test", VALIDATION)  # the splits of sources whose images lie in two parts
Parts = tuple[Labelled, Labelled, tuple[str, ...]]  # training, test, names of the classes


@dataclass(frozen=True)
class Wanted:
    """Where the images are and what they should be like, as far as a source needs to know.

    Args:
        argument: what follows the name and a colon; empty for sources that take none.
        directory: of the files, where the source has a place of its own for them; None for that place.
        size: pictures of any size are resized to size x size.
        split: which part of the images is the test, where a source has several; None for its own choice.
        workers: threads that read files.
    """

    argument: str = ""
    directory: str | None = None
    size: int = 32
    split: str | None = None
    workers: int = 1


@dataclass(frozen=True)
class Source:
    """A source of images.

    Args:
        read: gives the images, or raises ValueError that says how to get them.
        argument: how messages call what follows the name and a colon; empty if nothing may follow.
        splits: the names that a split can have; empty where ``read`` knows them.
    """

    read: Callable[[Wanted], Parts]
    argument: str = ""
    splits: tuple[str, ...] = HELD_OUT


def validating(parts: Parts) -> Parts:
    """Return a training set without every fifth image, these as the test, and the classes."""
    (images, labels), _, classes = parts
    held_out = torch.arange(len(labels)) % 5 == 0
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out]), classes
