"""A training: dense, search and finetune are the same ten lines."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from smart_kernels import warmup
from smart_train.data import Data
from smart_train.pruners import Pruner

from . import checkpoint
from .course import Course, lr_factor
from .fits import check_state
from .optimizers import make_capturable_, optimizers, plain_state, set_rate_
from .recipe import Recipe
from .replays import Replays


class Training:
    """A model in training and all that has to survive a kill.

    Args:
        model: on ``device``; masked if there is a ``pruner``.
        pruner: steps once per optimizer step, before forward; None trains the model as it is.
        teacher: in eval mode; its outputs are learnt instead of the labels, as the task says.

    Attributes:
        on_hard: called with the pruner when its masks have become hard, before the first step of finetuning.
        before_compiling: called before kernels are compiled, for who shows the progress.

    Raises:
        ValueError: the pruner wants to look at more batches than the course has passes.
    """

    on_hard: Callable[[Pruner], None] | None = None
    replays: Replays | None = None
    before_compiling: Callable[[], object] = staticmethod(lambda: None)  # for who shows the progress

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        recipe: Recipe,
        course: Course,
        *,
        pruner: Pruner | None = None,
        teacher: nn.Module | None = None,
        device: str = "cpu",
    ):
        self.model = model
        self.data = data
        self.recipe = recipe
        self.pruner = pruner
        self.teacher = teacher
        self.device = device
        self.flat = course.flat
        self.lr = recipe.lr if course.lr is None else course.lr
        self.step = 0
        looked_at = self._take_off(course)
        self.steps = course.passes - looked_at
        self.seen = course.seen + looked_at
        self.optimizers = optimizers(recipe, model, pruner)
        self.cold = pruner is not None and device == "cuda"  # its kernels are not compiled

    def use_graphs(self, replays: Replays) -> None:
        """Take steps from CUDA graphs, as ``replays`` of this training has them."""
        self.replays = replays
        self._on_device()

    def _take_off(self, course: Course) -> int:
        """Return how many batches go into the pruner's preparation instead of steps."""
        count = self.pruner.prepare_batches if self.pruner else 0
        if count and count >= course.passes:
            raise ValueError(f"steps must be more than the {count} batches seen before them, got {course.passes}")
        return count

    def prepare(self) -> None:
        """Show the pruner the batches it wants to see before the first step."""
        if self.pruner and self.pruner.prepare_batches:
            first = self.seen - self.pruner.prepare_batches
            self.pruner.prepare([self._batch(number) for number in range(first, self.seen)], self._label_loss)

    def advance(self) -> Tensor:
        """Take one optimizer step on the next batch; returns the loss, still on the device."""
        set_rate_(self.optimizers[0], self.lr * lr_factor(self.step, self.flat, self.steps))
        batch = self._batch(self.seen + self.step)
        loss = self.take_step(*batch) if self.replays is None else self.replays.advance(*batch)
        self.step += 1
        return loss

    def take_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Take a step, pruner and optimizers included, that reads nothing of the host which changes."""
        if self.pruner:
            self._step_pruner()
        if self.cold and self.pruner.stage != "dense":
            self._compile(images)
        loss = self._loss(images, labels)
        self._update(loss)
        return loss.detach()

    def _step_pruner(self) -> None:
        before = self.pruner.stage
        with self._autocast():  # says in which dtype the pruner packs
            self.pruner.step()
        if self.on_hard and before != "finetune" == self.pruner.stage:
            self.on_hard(self.pruner)

    def _on_device(self) -> None:
        """Let graphs, if there are any, read learning rates where they are."""
        if self.replays is not None:
            for optimizer in self.optimizers:
                make_capturable_(optimizer, next(self.model.parameters()).device)

    def _compile(self, images: Tensor) -> None:
        """Compile and tune the kernels of all layers at once, instead of one after the other as the step meets them."""
        self.before_compiling()
        with self._autocast():
            warmup(self.model, [tuple(images.shape)])
        self.cold = False

    def _autocast(self) -> torch.autocast:
        on_gpu = self.device == "cuda"
        return torch.autocast(
            self.device, torch.bfloat16, enabled=on_gpu if self.recipe.amp is None else self.recipe.amp
        )

    def _update(self, loss: Tensor) -> None:
        pruner = self.pruner
        (loss + pruner.penalty() if pruner else loss).backward()
        if pruner:
            pruner.after_backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if pruner:
            pruner.after_step()

    def _batch(self, number: int) -> tuple[Tensor, Tensor]:
        return tuple(part.to(self.device) for part in self.data.batch(number, self.recipe.batch, self.recipe.seed))

    def _label_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the task; of itself as teacher an unchanged model would learn nothing."""
        with self._autocast():
            return self.data.task.loss(self.model(images), labels)

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        if self.teacher is None:
            return self._label_loss(images, labels)
        with torch.no_grad(), self._autocast():
            target = self.teacher(images)
        with self._autocast():
            return self.data.task.imitation(target, self.model(images))

    def state_dict(self) -> dict:
        """Return everything that the rest of the training depends on."""
        return {
            "step": self.step,  # with the seed, this is the data order too
            "model": self.model.state_dict(),
            "optimizers": [plain_state(optimizer) for optimizer in self.optimizers],
            "pruner": self.pruner.state_dict() if self.pruner else None,
            "random": checkpoint.random_state(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue where ``state_dict()`` was taken.

        Raises:
            ValueError: it was taken of another training, or is damaged; nothing has changed then.
        """
        check_state(state, self.state_dict(), self.steps, self.optimizers, self.pruner)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._on_device()
        if self.pruner:
            self.pruner.load_state_dict(state["pruner"])
        checkpoint.set_random_state(state["random"])
