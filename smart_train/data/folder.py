"""A folder of one's own pictures."""

import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .source import Parts, Wanted

SPLITS = ("val", "valid", "validation", "test")
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm"}


def read(wanted: Wanted) -> Parts:
    """Return pictures of any kind, one subfolder per class, as size x size RGB.

    Where the folder has ``train`` and beside it the split that is wanted, or one of ``SPLITS``, these hold the classes.
    Otherwise a fifth of the pictures is the test.
    """
    path = Path(wanted.argument)
    if not path.is_dir():
        raise ValueError(f"folder:PATH must be a directory with one subfolder per class, got {path}")
    classes, files, test = _parted(path, _split(path, wanted.split))
    if len(classes) < 2 or all(test) or not any(test):
        raise ValueError(
            f"folder:{path} must hold at least 2 class subfolders with pictures for training and test, "
            f"got {len(classes)} subfolders, {len(files)} pictures"
        )
    with ThreadPoolExecutor(wanted.workers) as pool:
        images = torch.stack([*pool.map(lambda each: _picture(each[0], wanted.size), files)])
    labels = torch.tensor([label for _, label in files])
    chosen = torch.tensor(test)
    return (images[~chosen], labels[~chosen]), (images[chosen], labels[chosen]), tuple(classes)


def _parted(path: Path, split: str | None) -> tuple[list[str], list[tuple[Path, int]], list[bool]]:
    """Return the classes, the pictures with their labels, and which of them are the test."""
    if split is None:
        classes, files = _files(path)
        # the split hangs on the file's name alone, so adding pictures later never moves one from test to training
        return classes, files, [zlib.crc32(file.relative_to(path).as_posix().encode()) % 5 == 0 for file, _ in files]
    (classes, files), (others, held_out) = _files(path / "train"), _files(path / split)
    if classes != others:
        raise ValueError(f"{path}/train and {path}/{split} must have the same classes, got {classes} and {others}")
    return classes, files + held_out, [False] * len(files) + [True] * len(held_out)


def _split(path: Path, wanted: str | None) -> str | None:
    """Return the subfolder to test on; None where the folder is not parted."""
    parts = [entry.name for entry in path.iterdir() if entry.is_dir()]
    if wanted is not None:
        if "train" not in parts or wanted not in parts:
            raise ValueError(
                f"split must name a subfolder of {path} beside train, got {wanted!r}; there is {sorted(parts)}"
            )
        return wanted
    return next((name for name in SPLITS if "train" in parts and name in parts), None)


def _files(path: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    """Return the classes of a folder, and its pictures with their labels."""
    classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((path / name).rglob("*"))
        if file.suffix.lower() in PICTURES
    ]
    return classes, files


def _picture(file: Path, size: int) -> Tensor:
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError("data 'folder:PATH' must have Pillow installed: pip install pillow") from error
    try:
        with Image.open(file) as image:
            pixels = np.array(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    except OSError as error:
        raise ValueError(f"folder:PATH must hold readable pictures, got {file}: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
