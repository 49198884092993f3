"""Fashion-MNIST as Debian packages it."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch

from .source import Parts, Wanted

FASHION = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def read(wanted: Wanted) -> Parts:
    """Return Fashion-MNIST, 60,000 and 10,000 pictures of 28 x 28 pixels, from four IDX files."""
    directory = Path(wanted.directory) if wanted.directory else FASHION
    parts = []
    for prefix in ("train", "t10k"):
        images = torch.from_numpy(_idx(directory, f"{prefix}-images-idx3-ubyte"))[:, None]
        labels = torch.from_numpy(_idx(directory, f"{prefix}-labels-idx1-ubyte").astype(np.int64))
        parts.append((images, labels))
    return parts[0], parts[1], CLASSES


def _idx(directory: Path, name: str) -> np.ndarray:
    """Read an IDX file (big-endian: two zero bytes, type, number of axes, sizes, values), packed or not."""
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
