"""Define the optional hooks of a pruning method; the required ones, and everything else, are in ``base``."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from smart_train.masks import MaskedModel


class Hooks:
    """Optional parts of a method: how tiles are scored, what learns, what is done around each step of training.

    The defaults are those of one-shot magnitude pruning, which does mostly nothing.

    Attributes:
        title: how tables and plots call the method.
        learns: whether the scores are trained, by the optimizer that has ``param_group()``.
        options: the keyword arguments of its own that the command line may set.
        prepare_batches: how many batches ``prepare()`` wants; each costs about as much as a step.
        optimizers: those of the training loop, for methods that reset momentum; empty unless the loop fills it in.
        masked: the model's layers, budgets and masks.
    """

    title: ClassVar[str] = ""
    learns: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ()
    prepare_batches: int = 0
    optimizers: Sequence[Optimizer] = ()
    masked: MaskedModel

    def dense(self) -> None:
        """Set masks for a step of the dense stage, as by ``search()``; by default none."""

    def start(self) -> None:
        """Score the tiles at the first step of the search; by default by their standardised mean magnitude."""
        self.masked.score_by_magnitude()

    def check(self, masked: MaskedModel) -> None:
        """Raise ValueError where the method cannot prune these layers. By default it can prune all."""

    def parameters(self) -> list[nn.Parameter]:
        """Return what learns beside the weights, each tensor once. It wants an adaptive optimizer, no weight decay."""
        return self.masked.scores()

    def masks(self) -> dict[str, Tensor]:
        """Return the (rows, cols) values of the masks by layer, for ``report()``."""
        return self.masked.masks()

    def prepare(self, batches: Sequence[Sequence[Any]], loss: Callable[..., Tensor]) -> None:
        """Look at training data, once, before the first ``step()``.

        Args:
            batches: ``prepare_batches`` of them, each a sequence such as (x, target).
            loss: takes the parts of a batch, runs the model and gives the loss to differentiate.
        """

    def penalty(self) -> Tensor | float:
        """Return what to add to the loss."""
        return 0.0

    def after_backward(self) -> None:
        """Read or change gradients, before ``optimizer.step()``."""

    def after_step(self) -> None:
        """Change weights or scores, after ``optimizer.step()``."""
