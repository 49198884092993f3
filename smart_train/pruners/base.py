"""``Pruner``, the seam between a method of pruning and everything else."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from smart_kernels import Pattern, unmask_
from smart_train.masks import Budget, MaskedModel, check_not_nan, counts
from smart_train.schedule import Lengths

from .hooks import Hooks


class Pruner(Hooks, ABC):
    """A method that finds which tiles of a model to keep, while the model trains, in three stages.

    ========  ==============================================  ====================
    stage     masks                                           lasts
    ========  ==============================================  ====================
    dense     none                                            ``dense_steps``
    search    what ``search()`` sets in each step             ``search_steps``
    finetune  0 or 1, fixed, the best scores in the budget    until ``finalize()``
    ========  ==============================================  ====================

    ::

        pruner = SmartPruner(model, Block(32, 32), sparsity=0.9, search_steps=1000)  # or any other of PRUNERS
        optimizer = torch.optim.AdamW([{"params": pruner.weights()}, pruner.param_group()])
        for x, target in loader:
            pruner.step()
            loss = cross_entropy(model(x), target) + pruner.penalty()
            loss.backward()  # as often as gradients are accumulated
            pruner.after_backward()
            optimizer.step()
            optimizer.zero_grad()
            pruner.after_step()
        pruner.finalize()

    A method is a subclass with a ``search()``, in a file of its own, and a line in ``PRUNERS``; ``Hooks`` has what else
    it may say. Budgets, shared weights, hardening, state and report are the same for all. A loop may leave out the
    hooks that its method does not use. Weights without ``requires_grad`` are not trained but pruned.

    Args:
        model: changed in place by ``mask_``.
        pattern: what is kept or pruned together; None takes the layers that ``mask_`` has prepared before.
        sparsity: fraction of the prunable weights to remove, in [0, 1). None where N:M patterns imply it.
        scope: "global", tiles of all layers compete, or "layer". N:M groups always compete among themselves.
        search_steps, dense_steps: length of the stages in calls of ``step()``.
        eps: tiles with a mask of at most this are not computed. Default: min(1e-3, 0.1 * keep / n).
        filter_fn: ``(module, name) -> bool``, which layers; see ``mask_``.
        example_input: for ``Channel``, prunes layers that share channels together, so that ``slim_`` can remove them;
            see ``mask_``. The budget counts the rows of all layers that write a channel.

    Attributes:
        layers: the masked layers by name; of those that share scores, the first.
        pools: which of them compete for which budget.
        steps, stage: calls of ``step()`` so far, and where they have led.

    Raises:
        ValueError: no layer to prune, a value out of its range, or a budget too small for one tile per layer.
    """

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | None = None,
        sparsity: float | None = None,
        *,
        scope: str = "global",
        search_steps: int,
        dense_steps: int = 0,
        eps: float | None = None,
        filter_fn: Callable[[nn.Module, str], bool] | None = None,
        example_input: Any = None,
    ):
        self.lengths = Lengths(search_steps, dense_steps)
        where = {"filter_fn": filter_fn, "example_input": example_input, "check": self.check}
        self.masked = MaskedModel(model, pattern, Budget(sparsity, scope, eps), **where)
        self.model = model
        self.layers = self.masked.layers
        self.pools = self.masked.pools
        self.steps = 0
        self.stage = "dense"
        self.masked.train_scores(self.learns)

    @abstractmethod
    def search(self) -> None:
        """Set the masks for a step of the search, at ``progress``; or end it with ``harden()``."""

    def param_group(self, lr: float = 0.1) -> dict[str, Any]:
        """Return ``parameters()`` as a parameter group for Adam. 0.03 suits N:M better."""
        return {"params": self.parameters(), "lr": lr, "weight_decay": 0.0}

    def weights(self) -> list[nn.Parameter]:
        """Return all other parameters of the model."""
        own = {id(parameter) for parameter in self.parameters()}
        return [parameter for parameter in self.model.parameters() if id(parameter) not in own]

    @property
    def progress(self) -> float:
        """Of the search: 0 in its first step, 1 in its last."""
        return self.lengths.progress(self.steps - 1)

    def step(self) -> None:
        """Set the masks for the coming optimizer step, before its first forward; they stay through accumulation.

        Raises:
            ValueError: the pruner is finalized.
        """
        self._check_open()
        self.steps += 1
        if self.stage == "dense" and self.steps > self.lengths.dense_steps:
            self._start_search()
        if self.stage == "search" and self.steps > self.lengths.dense_steps + self.lengths.search_steps:
            self.harden()
        if self.stage == "search":
            self.search()

    def harden(self) -> None:
        """End the search: the best scores within the budget are kept, masks are fixed and scores frozen.

        In the dense stage this prunes at once by the scores of ``start()``; in the finetune stage it does nothing.

        Raises:
            ValueError: NaN in the scores, a budget too small for the best tile of each layer, or a finalized pruner.
        """
        self._check_open()
        if self.stage == "finetune":
            return
        if self.stage == "dense":
            self._start_search()
        self.masked.check_scores()
        self.masked.set_masks(self.masked.hard_masks())
        self.masked.train_scores(False)
        self.stage = "finetune"

    def finalize(self) -> dict[str, Any]:
        """Harden if that has not happened and leave plain layers with exact zeros. Returns the last ``report()``.

        Raises:
            ValueError: as by ``harden``. There is nothing left to do for the pruner.
        """
        self.harden()
        report = self.report()
        unmask_(self.model)
        self.stage = "finalized"
        return report

    @torch.no_grad()
    def report(self) -> dict[str, Any]:
        """Return the state of affairs, in fractions of the prunable weights.

        Looking waits for the GPU, so look now and then, not every step.

        Returns:
            step, stage; asked_sparsity and kept_sparsity, the latter if the masks were hardened now; live: the fraction
            whose mask is above eps; gap: ``sum |mask - hard| / kept``; and for each layer in layers its weights and how
            many are kept, and for N:M the score_lost to further constraints (``NM.score_lost``). A method may add more.

        Raises:
            ValueError: NaN in scores or masks, naming the layers (nothing else looks for it), or a finalized pruner.
        """
        self._check_open()
        self.masked.check_scores()
        masks = self.masks()
        check_not_nan("mask", masks)
        hard = self.masked.hard_masks() if self.stage == "search" else masks
        return {"step": self.steps, "stage": self.stage, **counts(self.masked, masks, hard)}

    def state_dict(self) -> dict[str, Any]:
        """Return what ``model.state_dict()``, which holds weights and scores, does not know: stage and masks.

        Plain enough for ``torch.load(weights_only=True)``. A method with more to keep adds it.
        """
        return {"step": self.steps, "stage": self.stage, **self.masked.state_dict()}

    def load_state_dict(self, taken: dict[str, Any]) -> None:
        """Continue where ``state_dict()`` was taken; ``model.load_state_dict`` has to bring the rest.

        Raises:
            ValueError: the state is of other layers, patterns or budgets.
        """
        self.masked.load_state_dict(taken)
        self.steps = taken["step"]
        self.stage = taken["stage"]
        self.masked.train_scores(self.learns and self.stage != "finetune")

    @torch.no_grad()
    def _start_search(self) -> None:
        self.start()
        self.stage = "search"

    def _check_open(self) -> None:
        if self.stage == "finalized":
            raise ValueError("a pruner must have masked layers, got one after finalize(): they are plain now")
