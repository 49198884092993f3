"""The trainings of one run: dense, SMART, and the one-shot baseline with the same budgets."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from smart_kernels import Channel, Pattern, parse
from smart_train import checkpoint, models
from smart_train.data import Data
from smart_train.loop import Training, fit
from smart_train.pruner import SmartPruner
from smart_train.recipe import Recipe

# The stronger baseline: a budget per layer leaves small layers one block, and some nets died of it.
ONE_SHOT_SCOPE = "global"
EXAMPLE = 32  # images in the batch for which backends are chosen and latency is measured


@dataclass(frozen=True)
class Stages:
    """What the trainings of one run share. Each writes its checkpoints to ``out/training/<name>``.

    Args:
        resume: continue from those checkpoints.
    """

    recipe: Recipe
    data: Data
    out: Path
    device: str
    resume: bool = False

    @property
    def pattern(self) -> Pattern:
        return parse(self.recipe.pattern)

    @property
    def example(self) -> Tensor:
        """The first test images."""
        return next(self.data.test_batches(EXAMPLE))[0].to(self.device)

    def model(self) -> nn.Module:
        """The untrained model of the recipe, its convolutions in channels_last, which trains faster on a CPU."""
        recipe, data = self.recipe, self.data
        built = models.build(recipe.model, data.channels, data.size, len(data.classes), recipe.seed)
        return built.to(self.device, memory_format=torch.channels_last)

    def check(self) -> None:
        """What can be known before anything is trained.

        Raises:
            ValueError: the training set is smaller than a batch, the model does not fit the images, or the budget
                cannot be met.
        """
        self.data.batch(0, self.recipe.batch, self.recipe.seed)
        self._pruner(self.model(), self.recipe.scope)

    def dense(self) -> nn.Module:
        """The trained dense model that both pruned ones start from."""
        checkpoint.seed(self.recipe.seed)
        model = self.model()
        self._fit("dense", model, self.recipe.dense_steps)
        return model

    def smart(self, dense: nn.Module) -> tuple[nn.Module, dict]:
        """A plain model with exact zeros, pruned by SMART from a copy of ``dense``; and the pruner's last report, with
        the number of weights that the largest score stands for.
        """
        model = copy.deepcopy(dense)
        pruner = self._pruner(model, self.recipe.scope)
        return self._pruned("smart", model, pruner, dense)

    def one_shot(self, dense: nn.Module) -> tuple[nn.Module, dict]:
        """The baseline: keep the blocks of largest mean magnitude at once, then finetune for as many steps.

        It is a pruner that hardens before its first step, so the budget rule, the learning rates and the data order
        are those of ``smart``.
        """
        model = copy.deepcopy(dense)
        pruner = self._pruner(model, ONE_SHOT_SCOPE)
        pruner.harden()
        return self._pruned("oneshot", model, pruner, dense)

    def _pruned(self, name: str, model: nn.Module, pruner: SmartPruner, dense: nn.Module) -> tuple[nn.Module, dict]:
        recipe = self.recipe
        schedule = {"lr": recipe.lr_pruned, "flat": recipe.search_steps, "seen": recipe.dense_steps}
        teacher = copy.deepcopy(dense).eval() if recipe.distill else None
        self._fit(name, model, recipe.pruned_steps, pruner=pruner, teacher=teacher, **schedule)
        largest = max(int(cost.max()) for pool in pruner.pools for cost in pool.costs.values())
        return model, pruner.finalize() | {"largest": largest}

    def _pruner(self, model: nn.Module, scope: str) -> SmartPruner:
        recipe = self.recipe
        settings = {"search_steps": recipe.search_steps, "temperature": recipe.temperature, "warmup": recipe.warmup}
        coupling = {"example_input": self.example} if isinstance(self.pattern, Channel) else {}
        return SmartPruner(model, self.pattern, recipe.sparsity, scope=scope, **settings, **coupling)

    def _fit(self, name: str, model: nn.Module, steps: int, **schedule) -> None:
        training = Training(model, self.data, self.recipe, steps, device=self.device, **schedule)
        fit(training, self.out / "training" / name, resume=self.resume, title=f"{self.recipe.model} {name:>7}")
