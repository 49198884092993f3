"""The scenes of a task: for training drawn by the seed, for testing the same for all."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from smart_train.data import Data, load

from .detection import Detection
from .scenes import Scenes, compose
from .segmentation import Segmentation
from .superresolution import SuperResolution, small

TEST = 12345  # seed of the scenes to test on
Items = tuple[Tensor, Tensor]  # (m, 1, h, h) uint8, (m,) int64


@dataclass(frozen=True)
class Kind:
    """A task of this comparison.

    Args:
        model: as ``smart_train.models.build`` takes it.
        data: gives the data of scenes for training and for testing, and of the names of the items.
        metric: of that data's task.
        settings: of the ``Recipe``, by a look at dense models of a seed that is not compared.
        claim: the method whose paper claims it; see ``docs/results-tasks.md``.
    """

    model: str
    data: Callable[[Scenes, Scenes, tuple[str, ...]], Data]
    metric: str
    claim: str
    settings: dict[str, Any] = field(default_factory=dict)


def pixels(train: Scenes, test: Scenes, names: tuple[str, ...]) -> Data:
    """Return pictures with the class of each pixel."""
    parts = [(each.pictures, each.classes) for each in (train, test)]
    return Data("segment", *parts, ("background", *names), Segmentation())


def boxes(train: Scenes, test: Scenes, names: tuple[str, ...]) -> Data:
    """Return pictures with the box of each item."""
    parts = [(each.pictures, each.boxes) for each in (train, test)]
    return Data("detect", *parts, names, Detection())


def enlarged(train: Scenes, test: Scenes, names: tuple[str, ...]) -> Data:
    """Return small pictures with the large ones."""
    parts = [(small(each.pictures), each.pictures) for each in (train, test)]
    return Data("enlarge", *parts, (), SuperResolution())


SGD = {"optimizer": "sgd", "lr": 0.1, "lr_pruned": 0.05, "weight_decay": 5e-4}
TASKS = {
    "segment": Kind("bench.tasks.segmentation:unet", pixels, Segmentation.metric, "gdp", SGD),
    "detect": Kind(
        "bench.tasks.detection:detector", boxes, Detection.metric, "activation", {"lr": 5e-3, "lr_pruned": 2.5e-3}
    ),
    "enlarge": Kind(
        "bench.tasks.superresolution:enlarger", enlarged, SuperResolution.metric, "dhp", {"lr": 2e-3, "lr_pruned": 1e-3}
    ),
}


@lru_cache(maxsize=1)
def fashion() -> tuple[Items, Items, tuple[str, ...]]:
    """Return the items of Fashion-MNIST for training and for testing, and their names."""
    data = load("fashion")
    return data.train, data.test, data.classes


def squares() -> tuple[Items, Items, tuple[str, ...]]:
    """Return items that need no data set, for rehearsals."""
    made = torch.Generator().manual_seed(0)
    items = torch.randint(100, 256, (20, 1, 16, 16), generator=made, dtype=torch.uint8)
    labels = torch.arange(20) % 10
    return (items, labels), (items, labels), tuple("0123456789")


@lru_cache(maxsize=4)
def data_of(task: str, seed: int, train: int, test: int, items: Callable = fashion) -> Data:
    """Return the data of a task.

    Args:
        task: a key of ``TASKS``.
        seed: of the scenes for training.
        train, test: how many scenes.
        items: gives what is drawn.
    """
    drawn, held, names = items()
    return TASKS[task].data(compose(*drawn, train, seed), compose(*held, test, TEST), names)
