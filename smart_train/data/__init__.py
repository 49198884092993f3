"""Images that need no network: a source is a file, and a line in one table."""

import os
from pathlib import Path

from smart_train.reference import FORM, is_reference

from . import digits, fashion, folder, own
from .dataset import Data
from .source import VALIDATION, Parts, Source, Wanted, validating

SOURCES = {
    "digits": Source(digits.read),
    "fashion": Source(fashion.read),
    "folder": Source(folder.read, "PATH", splits=()),
}

__all__ = ["SOURCES", "Data", "Parts", "Source", "Wanted", "load", "names"]


def names() -> list[str]:
    """Return the sources as the command line writes them, such as ``folder:PATH``."""
    own_names = [f"{name}:{source.argument}" if source.argument else name for name, source in SOURCES.items()]
    return [*own_names, "PATH", FORM]


def load(
    name: str, directory: str | None = None, size: int = 32, split: str | None = None, workers: int | None = None
) -> Data:
    """Load a data set.

    Args:
        name: ``digits``, ``fashion``, ``folder:PATH`` (a subfolder for each class), that path alone, or of ``names()``.
        directory: where the four IDX files of Fashion-MNIST are, if not where Debian puts them.
        size: pictures of a folder are resized to size x size.
        split: to test on. Of folders a subfolder beside ``train``; default: val, valid, validation or test. Of digits
            and fashion ``test``, or ``validation``: a fifth of the training images. Functions are told it.
        workers: threads that read the pictures of a folder; default: one per processor core, at most 8.

    Raises:
        ValueError: another name, a split of data that has none, no workers, or missing files.
    """
    kind, _, argument = name.partition(":")
    if kind not in SOURCES and Path(name).is_dir():
        return load(f"folder:{name}", directory, size, split, workers)
    _check(name, split, workers)
    if kind not in SOURCES:
        return Data(name, *own.read(name, split))
    threads = workers or min(8, os.cpu_count() or 1)
    parts = SOURCES[kind].read(Wanted(argument, directory, size, split, threads))
    return Data(name, *(validating(parts) if SOURCES[kind].splits and split == VALIDATION else parts))


def _check(name: str, split: str | None, workers: int | None) -> None:
    kind, _, argument = name.partition(":")
    source = SOURCES.get(kind)
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if split is not None and source and source.splits and split not in source.splits:
        raise ValueError(f"split of {name} must be {' or '.join(source.splits)}, got {split!r}")
    if source is None and is_reference(name):
        return
    if source is None or bool(source.argument) != bool(argument) or name.endswith(":"):
        *others, last = names()
        raise ValueError(f"data must be {', '.join(others)} or {last}, got {name!r}")
