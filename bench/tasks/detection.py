"""Boxes around items: a detector on a grid, and its average precision."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_train.tasks import Task

from .layers import convolution
from .precision import Found, mean_average_precision, overlap

CELL = 8  # pixels of a cell of the grid
USUAL = 16.0  # size of a box whose logarithm is 0
FEW = 10  # boxes of a picture that are looked at, the surest
SAME = 0.5  # intersection over union above which a less sure box of the class is left out
EMPTY = 0.5  # weight of cells without an item in the loss


class Grid(NamedTuple):
    """What a cell says, each (n, ..., h, w): is there an item, where in the cell, how large, of which class?"""

    there: Tensor
    place: Tensor
    size: Tensor
    classes: Tensor


class Detection(Task):
    """Outputs are (n, 5 + classes, h, w), a box for each cell of a grid; targets are those of ``Scenes.boxes``."""

    metric = "AP at .5, %"

    def loss(self, outputs, targets):
        grid = parts(outputs)
        picture, box = (targets[..., 4] >= 0).nonzero(as_tuple=True)
        boxes = targets[picture, box]
        middle = (boxes[:, :2] + boxes[:, 2:4]) / 2 / CELL
        column, row = middle.long().unbind(1)
        truth = torch.zeros_like(grid.there)
        truth[picture, row, column] = 1
        weight = truth + EMPTY * (1 - truth)
        there = F.binary_cross_entropy_with_logits(grid.there, truth, weight, reduction="sum")
        place = F.smooth_l1_loss(grid.place[picture, :, row, column].sigmoid(), middle % 1, reduction="sum")
        size = ((boxes[:, 2:4] - boxes[:, :2]) / USUAL).log()
        size = F.smooth_l1_loss(grid.size[picture, :, row, column], size, reduction="sum")
        classes = F.cross_entropy(grid.classes[picture, :, row, column], boxes[:, 4].long(), reduction="sum")
        return (there + 5 * (place + size) + classes) / max(1, len(boxes))

    def judge(self, outputs: Tensor, targets: Tensor) -> list[tuple[Found, Tensor]]:
        """Return for each picture what was found, and its true (k, 5) boxes."""
        found = boxes_of(parts(outputs))
        return [(each, truth[truth[:, 4] >= 0]) for each, truth in zip(found, targets, strict=True)]

    def quality(self, judged):
        return 100 * mean_average_precision([picture for batch in judged for picture in batch])


def parts(outputs: Tensor) -> Grid:
    """Split what a model puts out."""
    return Grid(outputs[:, 0].float(), outputs[:, 1:3].float(), outputs[:, 3:5].float(), outputs[:, 5:].float())


def boxes_of(grid: Grid) -> list[Found]:
    """Return the boxes of each picture, the surest first, without those that repeat a surer one."""
    height, width = grid.there.shape[1:]
    corner = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"))
    middle = (corner + grid.place.sigmoid()) * CELL
    half = grid.size.exp() * USUAL / 2
    boxes = torch.cat([middle - half, middle + half], 1).flatten(2).transpose(1, 2)
    chance, classes = grid.classes.softmax(1).max(1)
    sure = (grid.there.sigmoid() * chance).flatten(1)
    return [distinct(*each) for each in zip(boxes, sure, classes.flatten(1), strict=True)]


def distinct(boxes: Tensor, sure: Tensor, classes: Tensor) -> Found:
    """Return the surest boxes of a picture, each unlike every surer one of its class."""
    order = sure.argsort(descending=True, stable=True)[:FEW]
    boxes, sure, classes = boxes[order], sure[order], classes[order]
    alike = (overlap(boxes, boxes) > SAME) & (classes[:, None] == classes)
    kept = torch.ones(len(boxes), dtype=torch.bool)
    for place in range(len(boxes)):
        kept[place] = not (alike[place, :place] & kept[:place]).any()
    return Found(boxes[kept], sure[kept], classes[kept])


class Detector(nn.Sequential):
    """Five convolutions to an eighth of the picture, where each pixel is a cell."""

    def __init__(self, channels: int, classes: int):
        layers = [convolution(channels, 16, stride=2), convolution(16, 32, stride=2), convolution(32, 64, stride=2)]
        super().__init__(*layers, convolution(64, 64), convolution(64, 64), nn.Conv2d(64, 5 + classes, 1))


def detector(channels: int, classes: int) -> nn.Module:
    """Return a fresh detector of 98,000 weights."""
    return Detector(channels, classes)
