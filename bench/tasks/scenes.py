"""Pictures with several items on them, and what is known exactly of each pixel and item."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SIZE = 48
MOST = 3  # items on a picture
INK = 32  # a pixel of at least this belongs to its item; a darker one is left out
TRIES = 20  # to find a place beside the items that are there
LIGHT = 80  # of the background, at most


@dataclass(frozen=True)
class Scenes:
    """Pictures and their truth.

    Attributes:
        pictures: (n, 1, SIZE, SIZE) uint8.
        classes: (n, SIZE, SIZE) uint8 of each pixel, 0 for the background, else 1 more than the item's.
        boxes: (n, MOST, 5) float32 left, top, right, bottom, class: the pixels of an item lie in [left, right) and
            [top, bottom). The class is -1 where there are fewer items.
    """

    pictures: Tensor
    classes: Tensor
    boxes: Tensor


def compose(items: Tensor, labels: Tensor, count: int, seed: int) -> Scenes:
    """Return pictures of 1 to ``MOST`` items each, none of which touches another.

    An item is drawn as it is or at half its size, over a background whose light changes evenly from corner to corner.

    Args:
        items: (m, 1, h, h) uint8, at most SIZE high.
        labels: (m,) int64.
        count: of pictures.
        seed: with the items it says everything.
    """
    rng = np.random.default_rng([seed, count])
    pixels = items[:, 0].numpy()
    pictures = _backgrounds(rng, count)
    classes = np.zeros((count, SIZE, SIZE), np.uint8)
    boxes = np.full((count, MOST, 5), -1, np.float32)
    for place in range(count):
        drawn = 0
        for item in rng.integers(len(pixels), size=rng.integers(1, MOST + 1)):
            shape = _halved(pixels[item]) if rng.random() < 0.5 else pixels[item]
            box = _draw(rng, shape, int(labels[item]), pictures[place], classes[place])
            if box:
                boxes[place, drawn] = *box, int(labels[item])
                drawn += 1
    return Scenes(torch.from_numpy(pictures)[:, None], torch.from_numpy(classes), torch.from_numpy(boxes))


def _backgrounds(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return (count, SIZE, SIZE) uint8 between the light of four corners."""
    corners = rng.integers(0, LIGHT, (count, 2, 2)).astype(np.float32)
    along = np.linspace(0, 1, SIZE, dtype=np.float32)
    weights = np.stack([1 - along, along])  # of the first corner and the second
    return np.einsum("ay,nab,bx->nyx", weights, corners, weights).round().astype(np.uint8)


def _halved(shape: np.ndarray) -> np.ndarray:
    """Return the means of 2 x 2 pixels."""
    height, width = (size // 2 * 2 for size in shape.shape)
    small = shape[:height, :width].reshape(height // 2, 2, width // 2, 2).astype(np.float32).mean((1, 3))
    return small.round().astype(np.uint8)


def _draw(
    rng: np.random.Generator, shape: np.ndarray, label: int, picture: np.ndarray, classes: np.ndarray
) -> tuple[int, int, int, int] | None:
    """Draw an item where there is room and return its box; None where there is none, or nothing of it is to be seen."""
    rows, columns = np.nonzero(shape >= INK)
    if not len(rows):
        return None
    shape = shape[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = shape.shape
    for _ in range(TRIES):
        top, left = rng.integers(SIZE - height + 1), rng.integers(SIZE - width + 1)
        around = classes[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1]
        if not around.any():
            there = (slice(top, top + height), slice(left, left + width))
            seen = shape >= INK
            picture[there][seen] = shape[seen]
            classes[there][seen] = label + 1
            return int(left), int(top), int(left + width), int(top + height)
    return None
