"""What is compared: plans for targets, and one pattern and sparsity for all layers."""

from dataclasses import dataclass

from smart_train.demo import STEPS
from smart_train.run.recipe import Recipe

MODELS = ("cnn", "vit")
TARGETS = (2.0, 3.0)  # times as fast as the best dense model
PATTERNS = ("block:16x16:all", "block:32x32:all", "block:64x64:all")
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
DATA = "fashion"


@dataclass(frozen=True)
class Choice:
    """Say what a model is pruned to, by SMART: a plan for a speed-up, or one pattern and sparsity.

    Attributes:
        speedup: the target of a plan; None where there is no plan.
        pattern, sparsity: of all layers together; empty and 0 where there is a plan.
    """

    speedup: float | None = None
    pattern: str = ""
    sparsity: float = 0.0

    def __str__(self) -> str:
        return f"plan {self.speedup:g}x" if self.speedup else f"{self.pattern} {100 * self.sparsity:g} %"

    def recipe(self, model: str, seed: int, steps: tuple[int, int, int] | None = None, data: str = DATA) -> Recipe:
        """Return the settings of a run: those of the demo, or with other numbers of steps."""
        names = ("dense_steps", "search_steps", "finetune_steps")
        counts = dict(zip(names, steps or STEPS[data][model], strict=True))
        if self.speedup:
            what = {"target": f"speedup:{self.speedup:g}"}
        else:
            what = {"pattern": self.pattern, "sparsity": self.sparsity}
        return Recipe.for_model(model, data=data, seed=seed, **counts, **what)


PLANS = [Choice(speedup) for speedup in TARGETS]
GRID = [Choice(None, pattern, sparsity) for pattern in PATTERNS for sparsity in SPARSITIES]
