"""A folder of one's own pictures."""

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .source import Parts, Wanted

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm"}


def read(wanted: Wanted) -> Parts:
    """Return pictures of any kind, one subfolder per class, as size x size RGB; a fifth of them is the test."""
    path = Path(wanted.argument)
    if not path.is_dir():
        raise ValueError(f"folder:PATH must be a directory with one subfolder per class, got {path}")
    classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((path / name).rglob("*"))
        if file.suffix.lower() in PICTURES
    ]
    # the split hangs on the file's name alone, so adding pictures later never moves one from test to training
    test = [zlib.crc32(file.relative_to(path).as_posix().encode()) % 5 == 0 for file, _ in files]
    if len(classes) < 2 or all(test) or not any(test):
        raise ValueError(
            f"folder:{path} must hold at least 2 class subfolders with pictures for training and test, "
            f"got {len(classes)} subfolders, {len(files)} pictures"
        )
    images = torch.stack([_picture(file, wanted.size) for file, _ in files])
    labels = torch.tensor([label for _, label in files])
    held_out = torch.tensor(test)
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out]), tuple(classes)


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
