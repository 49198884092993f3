"""The request that a source of images gets, and its answer."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Labelled = tuple[Tensor, Tensor]  # images uint8 (n, channels, size, size), labels int64 (n,)
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
        splits: whether it has parts to choose the test from.
    """

    read: Callable[[Wanted], Parts]
    argument: str = ""
    splits: bool = False
