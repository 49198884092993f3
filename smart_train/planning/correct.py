"""``correct_``: the budget of a planned model is corrected once, by what the hard masks are measured to take."""

import copy
from dataclasses import dataclass
from typing import Any

import torch

from smart_kernels import compress_, unmask_
from smart_train.masks import PlannedPool
from smart_train.plans import Plan
from smart_train.pruners import Pruner

PATIENCE = 0.1  # seconds to go on measuring a layer whose times have not settled


@dataclass(frozen=True)
class Correction:
    """Tell what was measured after the search, and what followed.

    Attributes:
        goal_ms, predicted_ms, measured_ms: asked for, as planned, and measured with the masks that the search left.
        kept_before, kept_after: weights that these masks keep, and those that the finetuning begins with.
    """

    goal_ms: float
    predicted_ms: float
    measured_ms: float
    kept_before: int
    kept_after: int


def correct_(pruner: Pruner, plan: Plan, example_input: Any, seconds: float = PATIENCE) -> Correction:
    """Measure a planned model whose masks have just become hard, and give back or take away tiles, once.

    A copy is compressed and timed beside its best dense form. What it takes too much, or less than it may, changes the
    budget along the slopes of the plan, by half at most; the masks are then made anew from the same scores.

    Args:
        pruner: made with the plan, after ``harden()``.
        plan: for a latency or a speed-up, made for the example.
        example_input, seconds: see ``compress_``.

    Raises:
        ValueError: the plan is not one of time, or the masks are not hard.
    """
    if plan.unit != "ms" or pruner.stage != "finetune":
        raise ValueError(f"correct_ needs a plan in ms and a hardened pruner, got {plan.unit} and {pruner.stage}")
    measured = measured_ms(pruner, plan, example_input, seconds)
    goal = plan.limit if plan.met else plan.predicted
    before = _kept(pruner)
    _afford(pruner, goal - measured)
    return Correction(goal, plan.ms, measured, before, _kept(pruner))


def _afford(pruner: Pruner, more: float) -> None:
    """Make the masks anew with so much more to spend; several budgets share it by what they spend."""
    planned = [pool for pool in pruner.pools if isinstance(pool, PlannedPool)]
    whole = sum(pool.spends for pool in planned)
    for pool in planned:
        pool.afford(more * pool.spends / whole if whole else 0.0)
    pruner.masked.set_masks(pruner.masked.hard_masks())


def measured_ms(pruner: Pruner, plan: Plan, example_input: Any, seconds: float) -> float:
    """Return what a model with hard masks takes, in units of the plan's dense one: a busy machine drops out."""
    model = unmask_(copy.deepcopy(pruner.model).eval())
    report = compress_(model, example_input, seconds=seconds)
    measured = plan.dense_ms * report.after.ms / report.before.ms
    shared = torch.full((1,), measured, dtype=torch.float64, device=pruner.masked.scores()[0].device)
    pruner.masked.ranks.mean_([shared])  # masks are the same in all processes
    return shared.item()


def _kept(pruner: Pruner) -> int:
    masks = pruner.masked.masks()
    return sum(int((masks[name].cpu() * cost).sum()) for pool in pruner.pools for name, cost in pool.costs.items())
