"""The trainings of one run: dense, pruned by the recipe's method, and the baseline with the same budgets."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smart_train import models
from smart_train.data import Data
from smart_train.pruners import PRUNERS, Pruner

from . import aim, checkpoint
from .aim import Aim
from .course import Course
from .loop import fit
from .recipe import Recipe
from .replays import Replays
from .training import Training

BASELINE = "oneshot"  # the method that --baseline trains beside the recipe's own
# The stronger baseline: a budget per layer leaves small layers one block, and some nets died of it.
BASELINE_SCOPE = "global"
EXAMPLE = 32  # images in the batch for which backends are chosen and latency is measured


@dataclass(frozen=True)
class Stages:
    """The trainings of one run, and what they share. Each writes its checkpoints to ``out/training/<name>``.

    Args:
        resume: continue from those checkpoints.
        graph: "auto", steps come from CUDA graphs on a GPU where they can be captured; "on", an error where they
            cannot; "off", or on a CPU, one by one.
    """

    recipe: Recipe
    data: Data
    out: Path
    device: str
    resume: bool = False
    graph: str = "auto"

    @property
    def example(self) -> Tensor:
        """The first test images."""
        return next(self.data.test_batches(EXAMPLE))[0].to(self.device)

    def model(self) -> nn.Module:
        """Return the untrained model of the recipe, its convolutions in channels_last, which trains faster on a CPU."""
        return self._build(self.recipe.model)

    def _build(self, name: str) -> nn.Module:
        sizes = (self.data.channels, self.data.size, len(self.data.classes))
        built = models.build(name, *sizes, self.recipe.seed)
        return built.to(self.device, memory_format=torch.channels_last)

    def _teacher(self, dense: nn.Module) -> nn.Module | None:
        """Return the model whose probabilities are learnt instead of the labels, in eval mode."""
        if self.recipe.teacher:
            return self._build(self.recipe.teacher).eval()
        return copy.deepcopy(dense).eval() if self.recipe.distill else None

    def check(self) -> None:
        """Find out what can be known before anything is trained.

        Raises:
            ValueError: the training set is smaller than a batch, the model does not fit the images, the method does not
                fit the model, or the budget cannot be met.
        """
        self.data.batch(0, self.recipe.batch, self.recipe.seed)
        model = self.model()
        found = self._planned or aim.aim_of(self.recipe, model, self.example, trained=False)
        self._training(model, self._course, pruner=self._pruner(self.recipe.pruner, model, found))

    def dense(self) -> nn.Module:
        """Return the trained dense model that the pruned ones start from."""
        checkpoint.seed(self.recipe.seed)
        model = self.model()
        self._fit("dense", self._training(model, Course(self.recipe.dense_steps)))
        return model

    def aim(self, dense: nn.Module) -> Aim:
        """Return what ``dense`` is pruned to: what the recipe says, or a plan, made once and kept in ``out``."""
        if self._planned:
            return self._planned
        found = aim.aim_of(self.recipe, dense, self.example, trained=True)
        aim.keep(self._plan, found)
        return found

    def pruned(self, dense: nn.Module) -> tuple[nn.Module, dict]:
        """Prune a copy of ``dense`` by the recipe's method.

        Returns:
            A plain model with exact zeros; and the pruner's last report, with the ``largest`` number of weights that a
            score stands for, how many batches the pruner has ``prepared`` itself with, and a plan's ``correction``.
        """
        return self._prune(self.recipe.pruner, dense)

    def baseline(self, dense: nn.Module) -> tuple[nn.Module, dict]:
        """Prune a copy of ``dense`` at once by magnitude and finetune it for as many steps as ``pruned`` trains.

        The budget rule, the learning rates and the data order are those of ``pruned``.
        """
        return self._prune(BASELINE, dense)

    @property
    def _plan(self) -> Path:
        return self.out / "plan.json"

    @property
    def _planned(self) -> Aim | None:
        return aim.read(self._plan) if self.recipe.target and self._plan.exists() else None

    @property
    def _course(self) -> Course:
        recipe = self.recipe
        return Course(recipe.pruned_steps, flat=recipe.search_steps, seen=recipe.dense_steps, lr=recipe.lr_pruned)

    def _prune(self, name: str, dense: nn.Module) -> tuple[nn.Module, dict]:
        found = self.aim(dense)
        model = copy.deepcopy(dense)
        pruner = self._pruner(name, model, found)
        training = self._training(model, self._course, pruner=pruner, teacher=self._teacher(dense))
        note = self.out / "training" / name / "correction.json"
        training.on_hard = found.corrector(self.example, note)
        self._fit(name, training)
        largest = max(int(cost.max()) for pool in pruner.pools for cost in pool.costs.values())
        last = pruner.finalize() | {"largest": largest, "prepared": pruner.prepare_batches}
        return model, last | {"correction": aim.correction(note)}

    def _pruner(self, name: str, model: nn.Module, found: Aim) -> Pruner:
        settings = {"scope": BASELINE_SCOPE, "search_steps": self.recipe.search_steps}
        if name == self.recipe.pruner:
            settings = self.recipe.pruner_settings
        coupling = {"example_input": self.example} if found.whole_channels else {}
        return found.pruner(PRUNERS[name], model, {**settings, **coupling})

    def _training(self, model: nn.Module, course: Course, **pruning: Any) -> Training:
        training = Training(model, self.data, self.recipe, course, device=self.device, **pruning)
        if self.graph != "off" and self.device == "cuda":
            training.use_graphs(Replays(training, strict=self.graph == "on"))
        return training

    def _fit(self, name: str, training: Training) -> None:
        fit(training, self.out / "training" / name, resume=self.resume, title=f"{self.recipe.model} {name:>7}")
