"""A training: dense, search and finetune are the same ten lines."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_kernels import warmup
from smart_train.data import Data
from smart_train.pruners import Pruner

from . import checkpoint
from .evaluate import divergence
from .fits import check_state
from .recipe import Recipe

RAMP = 20  # steps over which the learning rate rises at the start of a training; AdamW on a fresh ViT needs it


def lr_factor(step: int, flat: int, steps: int) -> float:
    """Return 1 for the first ``flat`` steps (after a short ramp), then half a cosine down to 0 at ``steps``."""
    ramp = min(1.0, (step + 1) / RAMP)
    if step < flat:
        return ramp
    return ramp * 0.5 * (1 + math.cos(math.pi * (step - flat) / (steps - flat)))


@dataclass(frozen=True)
class Course:
    """The length of a training, the batches it sees, and its learning rate.

    Args:
        passes: over a batch, in all: optimizer steps, and what the pruner looks at before the first of them.
        flat: steps with a constant learning rate, before it falls to 0.
        seen: batches that an earlier training has used up.
        lr: peak learning rate of the weights; None for that of the recipe.
    """

    passes: int
    flat: int = 0
    seen: int = 0
    lr: float | None = None


class Training:
    """A model in training and all that has to survive a kill.

    Args:
        model: on ``device``; masked if there is a ``pruner``.
        pruner: steps once per optimizer step, before forward; None trains the model as it is.
        teacher: in eval mode; its probabilities are learnt instead of the labels.

    Attributes:
        on_hard: called with the pruner when its masks have become hard, before the first step of finetuning.

    Raises:
        ValueError: the pruner wants to look at more batches than the course has passes.
    """

    on_hard: Callable[[Pruner], None] | None = None

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
        self.optimizers = _optimizers(recipe, model, pruner)
        self.cold = pruner is not None and device == "cuda"  # its kernels are not compiled

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
            self.pruner.prepare([self._batch(number) for number in range(first, self.seen)], self._loss)

    def advance(self) -> Tensor:
        """Take one optimizer step on the next batch; returns the loss, still on the device."""
        if self.pruner:
            self._step_pruner()
        if self.cold and self.pruner.stage != "dense":
            self._compile()
        for group in self.optimizers[0].param_groups:
            group["lr"] = self.lr * lr_factor(self.step, self.flat, self.steps)
        loss = self._loss(*self._batch(self.seen + self.step))
        self._update(loss)
        self.step += 1
        return loss.detach()

    def _step_pruner(self) -> None:
        before = self.pruner.stage
        self.pruner.step()
        if self.on_hard and before != "finetune" == self.pruner.stage:
            self.on_hard(self.pruner)

    def _compile(self) -> None:
        """Compile and tune the kernels of all layers at once, instead of one after the other as the step meets them."""
        images, _ = self._batch(self.seen + self.step)
        with self._autocast():
            warmup(self.model, [tuple(images.shape)])
        self.cold = False

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cuda", torch.bfloat16, enabled=self.device == "cuda")

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
        images, labels = self.data.batch(number, self.recipe.batch, self.recipe.seed)
        return images.to(self.device), labels.to(self.device)

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        with self._autocast():
            if self.teacher is None:
                return F.cross_entropy(self.model(images), labels)
            with torch.no_grad():
                target = self.teacher(images)
            return divergence(target, self.model(images))

    def state_dict(self) -> dict:
        """Return everything that the rest of the training depends on."""
        return {
            "step": self.step,  # with the seed, this is the data order too
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
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
        if self.pruner:
            self.pruner.load_state_dict(state["pruner"])
        checkpoint.set_random_state(state["random"])


def _optimizers(recipe: Recipe, model: nn.Module, pruner: Pruner | None) -> list[torch.optim.Optimizer]:
    """Return one for the weights, and one for what a pruner learns."""
    if pruner is None:
        return [_for_weights(recipe, list(model.parameters()))]
    own = torch.optim.Adam([pruner.param_group(lr=recipe.lr_scores)])
    pruner.optimizers = [_for_weights(recipe, pruner.weights()), own]
    return list(pruner.optimizers)


def _for_weights(recipe: Recipe, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(weights, recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(weights, recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)
