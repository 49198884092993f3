"""``Task``, the seam between a training and what it is for."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor


class Task(ABC):
    """A loss, and how good outputs are.

    Data that is not for classes says so by its ``task``; trainings, their history and ``quality`` ask it. Outputs are
    what the model returns for a batch of images, targets a tensor with one entry for each image, in a form that the
    task and the data agree on.

    Attributes:
        metric: how tables call what ``quality`` returns.
    """

    metric: ClassVar[str]

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, to differentiate."""

    @abstractmethod
    def judge(self, outputs: Tensor, targets: Tensor) -> Any:
        """Return what ``quality`` needs to know of a batch of tests."""

    @abstractmethod
    def quality(self, judged: Sequence[Any]) -> float:
        """Return, for what ``judge`` returned for each batch, how good the model is; more is better."""

    def imitation(self, wanted: Tensor, outputs: Tensor) -> Tensor:
        """Return the loss of outputs that are to be like those of a teacher.

        Raises:
            ValueError: the task has none.
        """
        raise ValueError(f"a teacher must have a task that defines imitation, got {type(self).__name__}")
