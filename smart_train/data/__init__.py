"""Images that need no network: a source is a file, and a line in one table."""

from pathlib import Path

from smart_train.reference import FORM, is_reference

from . import digits, fashion, folder, own
from .dataset import Data
from .source import Parts, Source, Wanted

SOURCES = {
    "digits": Source(digits.read),
    "fashion": Source(fashion.read),
    "folder": Source(folder.read, "PATH"),
}

__all__ = ["SOURCES", "Data", "Parts", "Source", "Wanted", "load", "names"]


def names() -> list[str]:
    """Return the sources as the command line writes them, such as ``folder:PATH``."""
    own_names = [f"{name}:{source.argument}" if source.argument else name for name, source in SOURCES.items()]
    return [*own_names, "PATH", FORM]


def load(name: str, directory: str | None = None, size: int = 32) -> Data:
    """Load a data set.

    Args:
        name: ``digits``, ``fashion``, ``folder:PATH`` (one subfolder of images per class), that path alone or another
            of ``names()``.
        directory: where the four IDX files of Fashion-MNIST are, if not where Debian puts them.
        size: pictures of a folder are resized to size x size.

    Raises:
        ValueError: for another name, or when the files are not there; the message says how to get them.
    """
    kind, _, argument = name.partition(":")
    if kind not in SOURCES and Path(name).is_dir():
        return load(f"folder:{name}", directory, size)
    if kind not in SOURCES and is_reference(name):
        return Data(name, *own.read(name))
    source = SOURCES.get(kind)
    if source is None or bool(source.argument) != bool(argument) or name.endswith(":"):
        *others, last = names()
        raise ValueError(f"data must be {', '.join(others)} or {last}, got {name!r}")
    return Data(name, *source.read(Wanted(argument, directory, size)))
