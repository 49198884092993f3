"""The average precision of boxes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

RIGHT = 0.5  # intersection over union from which a box is right


class Found(NamedTuple):
    """Boxes of a picture, the surest first: (k, 4) left, top, right, bottom; (k,) how sure; (k,) int64 classes."""

    boxes: Tensor
    sure: Tensor
    classes: Tensor


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Return (a, b), the intersection over union of (a, 4) and (b, 4) boxes."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:4], second[None, :, 2:4])
    shared = (high - low).clamp_min(0).prod(2)
    areas = [(each[:, 2:4] - each[:, :2]).prod(1) for each in (first, second)]
    return shared / (areas[0][:, None] + areas[1][None] - shared).clamp_min(1e-9)


def mean_average_precision(pictures: Sequence[tuple[Found, Tensor]]) -> float:
    """Return the mean over classes of the average precision at an overlap of .5.

    Args:
        pictures: what was found on each, and its true boxes (k, 5) with the class last.
    """
    classes = sorted({int(each) for _, truth in pictures for each in truth[:, 4]})
    return sum(average_precision(pictures, each) for each in classes) / max(1, len(classes))


def average_precision(pictures: Sequence[tuple[Found, Tensor]], wanted: int) -> float:
    """Return the area below the precision of a class over its recall, each precision the best at this recall or more.

    As in Everingham et al., "The PASCAL Visual Object Classes Challenge" (from 2010 on): all boxes from the surest to
    the least; one is right when the true box that it overlaps most is by .5 or more, and no surer one has had it.
    """
    sure, right, truths = [], [], 0
    for found, truth in pictures:
        own = found.classes == wanted
        truth = truth[truth[:, 4] == wanted]
        truths += len(truth)
        sure.append(found.sure[own])
        right.append(matched(found.boxes[own], truth))
    order = torch.cat(sure).argsort(descending=True, stable=True)
    hits = torch.cat(right)[order].double().cumsum(0)
    precision = hits / torch.arange(1, len(hits) + 1)
    best = precision.flip(0).cummax(0).values.flip(0) if len(hits) else precision
    gained = torch.diff(hits, prepend=hits.new_zeros(1)) / max(1, truths)
    return float((best * gained).sum())


def matched(boxes: Tensor, truth: Tensor) -> Tensor:
    """Return (k,) bool: which boxes of a picture, the surest first, are right."""
    right = torch.zeros(len(boxes), dtype=torch.bool)
    if not len(truth):
        return right
    most, which = overlap(boxes, truth).max(1)
    taken: set[int] = set()
    for place, (much, each) in enumerate(zip(most.tolist(), which.tolist(), strict=True)):
        right[place] = much >= RIGHT and each not in taken
        if right[place]:
            taken.add(each)
    return right
