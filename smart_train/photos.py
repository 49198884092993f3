"""A few real photographs that wheels bring along: enough to distil a network into a pruned copy of itself."""

import importlib.util
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# package, file; the scenes of the last group are never trained on
TRAINED = (
    ("sklearn", "datasets/images/china.jpg"),
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/rocket.jpg"),
    ("skimage", "data/retina.jpg"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/ihc.png"),
)
HELD_OUT = (("sklearn", "datasets/images/flower.jpg"), ("skimage", "data/chelsea.png"))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what ImageNet networks expect
SCALES = 0.3, 1.0  # side of a crop, as a fraction of the shorter side of the photograph


def load(photos: tuple[tuple[str, str], ...]) -> list[Tensor]:
    """The photographs as (3, height, width) float32 in [0, 1].

    Raises:
        ValueError: a package is not installed; the message says how to get it.
    """
    return [_read(package, file) for package, file in photos]


def crops(photos: list[Tensor], count: int, size: int, seed: int) -> Tensor:
    """(count, 3, size, size) normalised random crops, half of them mirrored: a function of the seed alone."""
    random = np.random.default_rng(seed)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    pictures = []
    for _ in range(count):
        photo = photos[random.integers(len(photos))]
        side = int(min(photo.shape[1:]) * random.uniform(*SCALES))
        top, left = (random.integers(length - side + 1) for length in photo.shape[1:])
        crop = photo[None, :, top : top + side, left : left + side]
        crop = F.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0]
        pictures.append(crop.flip(2) if random.random() < 0.5 else crop)
    return (torch.stack(pictures) - mean) / std


def mixed(photos: list[Tensor], count: int, size: int, seed: int) -> Tensor:
    """Like ``crops``, each blended with another and its colours scaled: a few photographs become many pictures."""
    first, second = crops(photos, 2 * count, size, seed).chunk(2)
    random = torch.Generator().manual_seed(seed)
    share = torch.rand(count, 1, 1, 1, generator=random) * 0.5
    gain = 0.7 + 0.6 * torch.rand(count, 3, 1, 1, generator=random)
    return gain * torch.lerp(first, second, share)


def _read(package: str, file: str) -> Tensor:
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError("photographs must be read with Pillow: pip install pillow") from error
    found = importlib.util.find_spec(package)
    path = Path(found.origin).parent / file if found and found.origin else None
    if path is None or not path.is_file():
        wheel = {"sklearn": "scikit-learn", "skimage": "scikit-image"}[package]
        raise ValueError(
            f"the mobilenet_v2 demo must have the sample photographs of {wheel}, found no {Path(file).name}:\n\n"
            f"    python -m pip install --no-deps {wheel}\n"
        )
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
