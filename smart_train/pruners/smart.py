"""SMART: scores beside the weights, one soft top-k per step over all of them, hard masks at the end."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from smart_kernels import Pattern
from smart_train.masks import Pool
from smart_train.plans import Plan
from smart_train.schedule import Cooling

from .starting import StartingPruner
from .timetable import Timetable


class SmartPruner(StartingPruner):
    """SMART (arXiv 2403.19969): every tile has a score that learns beside the weights.

    In the search a tile is multiplied by ``sigmoid((scores - threshold) / temperature)``. The threshold is such that
    the masks add up to the budget, the temperature falls, and so the masks become 0 and 1. Scores start from the mean
    magnitude of their tile, or in deep models with depthwise convolutions from its saliency.

    Args:
        model, pattern, sparsity, scope, search_steps, dense_steps, eps, filter_fn, example_input, process_group: see
            ``Pruner``.
        temperature: (start, end) of a cosine, or a function of the progress of the search in [0, 1].
        warmup: fraction of the search in which the budget shrinks from everything to its target; 0 for a fixed budget.
        straight_through: N:M only; multiply by hard masks in the search, with the gradients of the soft ones.
        init, prepare_batches: see ``StartingPruner``.

    Raises:
        ValueError: no layer to prune, a value out of its range, or a budget too small for one tile per layer.
    """

    title = "SMART"
    learns = True
    options = ("temperature", "warmup", "init", "prepare_batches")
    repeating = ("dense", "search", "finetune")
    timetable: Timetable | None = None

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | Plan | None = None,
        sparsity: float | None = None,
        *,
        scope: str = "global",
        search_steps: int,
        dense_steps: int = 0,
        temperature: tuple[float, float] | Callable[[float], float] = (0.2, 1e-3),
        warmup: float = 0.5,
        eps: float | None = None,
        filter_fn: Callable[[nn.Module, str], bool] | None = None,
        straight_through: bool = False,
        example_input: Any = None,
        process_group: ProcessGroup | None = None,
        init: str = "auto",
        prepare_batches: int = 8,
    ):
        self.cooling = Cooling(temperature, warmup)
        self.straight_through = straight_through
        stages = {"search_steps": search_steps, "dense_steps": dense_steps}
        start = {"init": init, "prepare_batches": prepare_batches}
        where = {"filter_fn": filter_fn, "example_input": example_input, "process_group": process_group}
        super().__init__(model, pattern, sparsity, scope=scope, eps=eps, **stages, **start, **where)

    @property
    def temperature(self) -> float:
        """Of the masks now; 0 outside the search."""
        return self.cooling.temperature_at(self.progress) if self.stage == "search" else 0.0

    def keep(self, pool: Pool) -> float:
        """Return what the soft masks of ``pool`` keep now."""
        return pool.keep(self.progress, self.cooling.warmup)

    def check(self, masked):
        ranked = [name for name, layer in masked.layers.items() if not layer.pattern.local]
        if ranked and self.straight_through:
            raise ValueError(f"straight_through is for N:M patterns, got {', '.join(ranked)} with others")

    def search(self):
        keep, temperature = self._targets(self.steps - 1 - self.lengths.dense_steps)
        self.masked.soften(keep, temperature, self.straight_through)

    def masks(self):
        if self.stage != "search":
            return super().masks()
        keep = torch.tensor([self.keep(pool) for pool in self.masked.ranked], dtype=torch.float64)
        return self.masked.soft_masks(keep, torch.tensor(self.temperature, dtype=torch.float64))

    def report(self):
        return super().report() | {"temperature": self.temperature}

    def load_state_dict(self, taken):
        super().load_state_dict(taken)
        if self.stage == "search":
            self.masked.resume_search(self.masks(), self.temperature, self.straight_through)

    def _targets(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the budgets of the ranked pools and the temperature in a step of the search, on the device."""
        if self.timetable is None:
            progress = [
                self.lengths.progress(each + self.lengths.dense_steps) for each in range(self.lengths.search_steps)
            ]
            self.timetable = Timetable(self._rows(progress))
        row = self.timetable.read(step, self.masked.scores()[0].device)
        return row[1:], row[0]

    def _rows(self, progress: list[float]) -> Tensor:
        """Return temperature and budgets at each progress, (steps, 1 + pools) float64."""
        budgets = {}  # many pools are alike, and steps many
        kinds = [(pool.everything, pool.target, pool.cost is None) for pool in self.masked.ranked]
        for kind, pool in zip(kinds, self.masked.ranked, strict=True):
            if kind not in budgets:
                budgets[kind] = [pool.keep(u, self.cooling.warmup) for u in progress]
        columns = [list(map(self.cooling.temperature_at, progress)), *(budgets[kind] for kind in kinds)]
        return torch.tensor(columns, dtype=torch.float64).T.contiguous()
