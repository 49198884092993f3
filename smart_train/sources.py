"""Where the images come from: functions that give (training, test, class names), images as bytes (n, c, h, w)."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FASHION = Path("/usr/share/datasets/fashion-mnist")
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm"}

Labelled = tuple[Tensor, Tensor]
Source = tuple[Labelled, Labelled, tuple[str, ...]]


def digits() -> Source:
    """Scikit-learn's 1797 digits of 8 x 8 pixels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("data 'digits' must have scikit-learn installed: pip install scikit-learn") from error
    loaded = load_digits()
    images = torch.from_numpy(loaded.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(loaded.target.astype(np.int64))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    half = len(order) // 2  # half for the test: with 540 images one image would be 0.2 points
    train, test = order[:half], order[half:]
    return (images[train], labels[train]), (images[test], labels[test]), tuple("0123456789")


FASHION_CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def fashion(directory: Path) -> Source:
    """Fashion-MNIST, 60,000 and 10,000 pictures of 28 x 28 pixels, from four IDX files."""
    parts = []
    for prefix in ("train", "t10k"):
        images = torch.from_numpy(_idx(directory, f"{prefix}-images-idx3-ubyte"))[:, None]
        labels = torch.from_numpy(_idx(directory, f"{prefix}-labels-idx1-ubyte").astype(np.int64))
        parts.append((images, labels))
    return parts[0], parts[1], FASHION_CLASSES


def _idx(directory: Path, name: str) -> np.ndarray:
    """An IDX file (big-endian: two zero bytes, type, number of axes, sizes, values), packed or not."""
    found = next((path for path in (directory / f"{name}.gz", directory / name) if path.is_file()), None)
    if found is None:
        raise ValueError(
            f"data 'fashion' must have {name}[.gz] in {directory}: "
            "`apt-get install dataset-fashion-mnist` brings it, or point --data-dir to the four IDX files"
        )
    try:
        raw = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
        axes = raw[3]
        shape = np.frombuffer(raw, ">i4", axes, offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()
    except (OSError, EOFError, zlib.error, IndexError, ValueError) as error:
        raise ValueError(f"{found} must be a whole IDX file of bytes: {error}") from error


def folder(path: Path, size: int) -> Source:
    """Pictures of any kind, one subfolder per class, as size x size RGB; a fifth of them is the test."""
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
    images = torch.stack([_picture(file, size) for file, _ in files])
    labels, held_out = torch.tensor([label for _, label in files]), torch.tensor(test)
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
