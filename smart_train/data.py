"""Images that need no network: scikit-learn's digits, Debian's Fashion-MNIST, or a folder of one's own."""

import gzip
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FASHION = Path("/usr/share/datasets/fashion-mnist")
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm"}


@dataclass(frozen=True, eq=False)
class Data:
    """Pictures as bytes, (n, channels, size, size); ``batch`` and ``test`` hand them out normalised.

    Args:
        train, test: (images uint8, labels int64).
        classes: names, in the order of the labels.
    """

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: tuple[str, ...]

    @property
    def channels(self) -> int:
        return self.train[0].shape[1]

    @property
    def size(self) -> int:
        return self.train[0].shape[-1]

    def normalise(self, images: Tensor) -> Tensor:
        mean, std = _statistics(self)
        return (images.float() - mean.to(images.device)) / std.to(images.device)

    def batch(self, step: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Training batch number ``step``: a function of (step, size, seed) alone, so a resumed run sees the same data.

        Returns:
            (size, channels, h, w) float32 and (size,) int64. Each epoch has its own order and leaves out a short rest.

        Raises:
            ValueError: when the training set is smaller than one batch.
        """
        images, labels = self.train
        per_epoch = len(labels) // size
        if per_epoch == 0:
            raise ValueError(f"batch must be at most the {len(labels)} training images of {self.name}, got {size}")
        epoch, position = divmod(step, per_epoch)
        picked = _order(len(labels), seed, epoch)[position * size : (position + 1) * size]
        return self.normalise(images[picked]), labels[picked]

    def test_batches(self, size: int, limit: int | None = None):
        """The first ``limit`` test images (all: None), normalised, in batches of at most ``size``."""
        images, labels = (part[:limit] for part in self.test)
        for start in range(0, len(labels), size):
            yield self.normalise(images[start : start + size]), labels[start : start + size]


@lru_cache(maxsize=8)
def _statistics(data: Data) -> tuple[Tensor, Tensor]:
    images = data.train[0]
    sample = images[:: max(1, len(images) // 5000)].float()
    return sample.mean((0, 2, 3)).view(-1, 1, 1), sample.std((0, 2, 3)).clamp(min=1.0).view(-1, 1, 1)


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(count))


def load(name: str, directory: str | None = None, size: int = 32) -> Data:
    """Load a data set.

    Args:
        name: ``digits``, ``fashion`` or ``folder:PATH`` (one subfolder of images per class).
        directory: where the four IDX files of Fashion-MNIST are, if not where Debian puts them.
        size: pictures of a folder are resized to size x size.

    Raises:
        ValueError: for another name, or when the files are not there; the message says how to get them.
    """
    if name == "digits":
        return _digits()
    if name == "fashion":
        return _fashion(Path(directory) if directory else FASHION)
    if name.startswith("folder:") and name != "folder:":
        return _folder(Path(name.removeprefix("folder:")), size)
    raise ValueError(f"data must be digits, fashion or folder:PATH, got {name!r}")


def has_fashion(directory: str | None = None) -> bool:
    return (Path(directory) if directory else FASHION).is_dir()


def _digits() -> Data:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("data 'digits' must have scikit-learn installed: pip install scikit-learn") from error
    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    half = len(order) // 2  # half for the test: with 540 images one image would be 0.2 points
    train, test = order[:half], order[half:]
    return Data("digits", (images[train], labels[train]), (images[test], labels[test]), tuple("0123456789"))


FASHION_CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def _fashion(directory: Path) -> Data:
    parts = []
    for prefix in ("train", "t10k"):
        images = torch.from_numpy(_idx(directory, f"{prefix}-images-idx3-ubyte"))[:, None]
        labels = torch.from_numpy(_idx(directory, f"{prefix}-labels-idx1-ubyte").astype(np.int64))
        parts.append((images, labels))
    return Data("fashion", *parts, FASHION_CLASSES)


def _idx(directory: Path, name: str) -> np.ndarray:
    """An IDX file (big-endian: two zero bytes, type, number of axes, sizes, values), packed or not."""
    found = next((path for path in (directory / f"{name}.gz", directory / name) if path.is_file()), None)
    if found is None:
        raise ValueError(
            f"data 'fashion' must have {name}[.gz] in {directory}: "
            "`apt-get install dataset-fashion-mnist` brings it, or point --data-dir to the four IDX files"
        )
    raw = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
    axes = raw[3]
    shape = np.frombuffer(raw, ">i4", axes, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()


def _folder(path: Path, size: int) -> Data:
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
    split = [(images[picked], labels[picked]) for picked in (~held_out, held_out)]
    return Data(f"folder:{path}", *split, tuple(classes))


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
