"""Find what a run prunes to: one pattern and sparsity for all layers, or the plan for a target."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from smart_kernels import Pattern, parse
from smart_train.planning import Correction, correct_, parse_target, plan
from smart_train.plans import Plan
from smart_train.pruners import Pruner

from . import checkpoint
from .recipe import ANY, Recipe


@dataclass(frozen=True)
class Aim:
    """The patterns of the layers to prune.

    Attributes:
        pattern: of all layers, or None where there is a plan.
        sparsity: of all of them together; None where pattern or plan imply it.
        plan: for the target of the recipe, if it has one.
    """

    pattern: Pattern | None
    sparsity: float | None
    plan: Plan | None = None

    @property
    def whole_channels(self) -> bool:
        """Return whether channels are pruned that can be removed."""
        return self.pattern is not None and self.pattern.whole_channels

    def pattern_of(self, name: str) -> Pattern:
        """Return that of a layer."""
        return self.pattern if self.plan is None else parse(self.plan.pruned[name].pattern)

    def pruner(self, cls: type[Pruner], model: nn.Module, settings: Mapping[str, Any]) -> Pruner:
        """Return a pruner of a class for the model."""
        return cls(model, self.pattern if self.plan is None else self.plan, self.sparsity, **settings)

    def corrector(self, example: Tensor, path: Path) -> Callable[[Pruner], None] | None:
        """Return what corrects a pruner that has just hardened and notes that in a file; None without a target."""
        if self.plan is None:
            return None
        return lambda pruner: _write(path, asdict(correct_(pruner, self.plan, example)))


def aim_of(recipe: Recipe, model: nn.Module, example: Tensor, trained: bool) -> Aim:
    """Return what a recipe prunes to; with a target, plan.

    Args:
        model: dense.
        example: what times are measured on.
        trained: whether the plan is the one to prune by, and not only a look at what can be reached.
    """
    if recipe.target is None:
        return Aim(parse(recipe.pattern), recipe.sparsity)
    patterns = None if recipe.pattern == ANY else (parse(recipe.pattern),)
    training = model.training
    found = plan(model.eval(), example, parse_target(recipe.target), patterns=patterns)
    model.train(training)
    print(found if trained else found.summary(), file=sys.stderr)
    return Aim(None, None, found)


def keep(path: Path, found: Aim) -> None:
    """Keep the plan of an aim, if it has one, for ``read``."""
    if found.plan is not None:
        _write(path, found.plan.to_dict())


def read(path: Path) -> Aim:
    """Return the aim whose plan ``keep`` has kept.

    Raises:
        ValueError: the file holds something else.
    """
    return Aim(None, None, _read(path, Plan.from_dict))


def correction(path: Path) -> dict | None:
    """Return what a corrector noted in a file; None if it did nothing."""
    return _read(path, lambda content: asdict(Correction(**content))) if path.exists() else None


def _write(path: Path, content: dict) -> None:
    checkpoint.write_text(path, json.dumps(content, indent=2) + "\n")


def _read(path: Path, made_of: Callable[[dict], Any]) -> Any:
    try:
        return made_of(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} must be as prune writes it; delete it to plan anew: {error}") from error
