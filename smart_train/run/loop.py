"""The training loop: dense, search and finetune are the same ten lines."""

import json
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from smart_train import checkpoint
from smart_train.data import Data
from smart_train.evaluate import accuracy, divergence
from smart_train.pruner import SmartPruner
from smart_train.recipe import Recipe

RAMP = 20  # steps over which the learning rate rises at the start of a training; AdamW on a fresh ViT needs it


def lr_factor(step: int, flat: int, steps: int) -> float:
    """1 for the first ``flat`` steps (after a short ramp), then half a cosine down to 0 at ``steps``."""
    ramp = min(1.0, (step + 1) / RAMP)
    if step < flat:
        return ramp
    return ramp * 0.5 * (1 + math.cos(math.pi * (step - flat) / (steps - flat)))


class Training:
    """A model in training and all that has to survive a kill.

    Args:
        model: on ``device``; masked if there is a ``pruner``.
        steps: optimizer steps in all; the learning rate is constant over the first ``flat`` of them.
        lr: peak learning rate of the weights; None for that of the recipe.
        seen: batches that an earlier training has used up.
        pruner: steps once per optimizer step, before forward; None trains the model as it is.
        teacher: in eval mode; its probabilities are learnt instead of the labels.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        recipe: Recipe,
        steps: int,
        *,
        lr: float | None = None,
        flat: int = 0,
        seen: int = 0,
        pruner: SmartPruner | None = None,
        teacher: nn.Module | None = None,
        device: str = "cpu",
    ):
        self.model, self.data, self.recipe, self.pruner, self.device = model, data, recipe, pruner, device
        self.teacher = teacher
        self.step, self.steps, self.flat, self.seen = 0, steps, flat, seen
        self.lr = recipe.lr if lr is None else lr
        weights = pruner.weights() if pruner else list(model.parameters())
        self.optimizers = [_optimizer(recipe, weights)]
        if pruner:
            self.optimizers.append(torch.optim.Adam([pruner.param_group(lr=recipe.lr_scores)]))

    def advance(self) -> torch.Tensor:
        """One optimizer step on the next batch; returns the loss, still on the device."""
        if self.pruner:
            self.pruner.step()
        for group in self.optimizers[0].param_groups:
            group["lr"] = self.lr * lr_factor(self.step, self.flat, self.steps)
        images, labels = self.data.batch(self.seen + self.step, self.recipe.batch, self.recipe.seed)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device == "cuda"):
            loss = self._loss(images.to(self.device), labels.to(self.device))
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return loss.detach()

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.teacher is None:
            return F.cross_entropy(self.model(images), labels)
        with torch.no_grad():
            target = self.teacher(images)
        return divergence(target, self.model(images))

    def state_dict(self) -> dict:
        return {
            "step": self.step,  # with the seed, this is the data order too
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "pruner": self.pruner.state_dict() if self.pruner else None,
            "random": checkpoint.random_state(),
        }

    def load_state_dict(self, state: dict) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.pruner:
            self.pruner.load_state_dict(state["pruner"])
        checkpoint.set_random_state(state["random"])


def _optimizer(recipe: Recipe, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(weights, recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(weights, recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)


def fit(training: Training, folder: Path, *, resume=False, every=50, title="train") -> None:
    """Train to the end, with a progress bar, a history and checkpoints.

    Args:
        folder: gets ``history.jsonl`` (a row every 5 steps) and ``state.pt``, replaced after every ``every`` steps.
        resume: continue from ``state.pt`` if there is one. On a CPU the continued training equals the uninterrupted
            one bit for bit, however it was ended.
        title: of the progress bar.
    """
    state = folder / "state.pt"
    if resume and state.exists():
        training.load_state_dict(checkpoint.load(state, training.device))
    with _history(folder / "history.jsonl", training.step) as history, _bar(training, title) as bar:
        while training.step < training.steps:
            loss = training.advance()
            bar.update()
            if training.step % 5 == 0 or training.step == training.steps:
                row = _row(training, loss)
                bar.set_postfix_str(
                    " ".join(f"{name} {row[name]:.3g}" for name in SHOWN if row.get(name)), refresh=False
                )
                print(json.dumps(row), file=history, flush=True)
            if training.step % every == 0 or training.step == training.steps:
                checkpoint.save(state, training.state_dict())


SHOWN = ("loss", "temperature", "gap", "live")


def _row(training: Training, loss: torch.Tensor) -> dict:
    row = {"step": training.step, "loss": loss.item(), "lr": training.optimizers[0].param_groups[0]["lr"]}
    if not math.isfinite(row["loss"]):
        raise ValueError(f"loss must be finite, got {row['loss']} at step {training.step}; a smaller --lr may help")
    if training.pruner:
        report = training.pruner.report()
        row |= {name: report[name] for name in ("stage", "temperature", "gap", "live")}
    quarter = max(1, training.steps // 20) * 5
    if training.step % quarter == 0 or training.step == training.steps:
        row["accuracy"] = accuracy(training.model, training.data, training.device, limit=1000)
    return row


def _bar(training: Training, title: str) -> tqdm:
    often = 0.2 if sys.stderr.isatty() else 10.0  # a log file wants few lines
    return tqdm(total=training.steps, initial=training.step, desc=title, unit="step", mininterval=often)


def _history(path: Path, step: int):
    """The history opened for appending, without the rows after ``step``: they will be written again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [line for line in read_lines(path) if json.loads(line)["step"] <= step]
    path.write_text("".join(rows))
    return path.open("a")


def read_lines(path: Path) -> list[str]:
    """The whole lines of a history; a line cut short by a kill is left out."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] if path.exists() else []
