"""``SmartPruner``: scores beside the weights, one soft top-k per step over all of them, hard masks at the end."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from smart_kernels import GroupGate, HardGate, Pattern, SoftGate, mask_, unmask_
from smart_kernels.nn import start_scores_

from . import state
from .pool import Pool
from .pools import make_pools
from .schedule import Plan
from .scores import sharing, standardised
from .status import check_not_nan, status


class SmartPruner:
    """Finds which tiles of a model to keep, while the model trains, in three stages.

    ========  ===============================================  ====================
    stage     mask                                             lasts
    ========  ===============================================  ====================
    dense     none                                             ``dense_steps``
    search    ``sigmoid((scores - threshold) / temperature)``  ``search_steps``
    finetune  0 or 1, fixed                                    until ``finalize()``
    ========  ===============================================  ====================

    ::

        pruner = SmartPruner(model, Block(32, 32), sparsity=0.9, search_steps=1000)
        optimizer = torch.optim.AdamW([{"params": pruner.weights()}, pruner.param_group()])
        for x, target in loader:
            pruner.step()
            ...  # forward and backward, as often as needed, then optimizer.step()
        pruner.finalize()

    Weights without ``requires_grad`` are not trained but pruned; ``filter_fn`` leaves layers out.

    Args:
        model: changed in place by ``mask_``.
        pattern: what is kept or pruned together; None takes the layers that ``mask_`` has prepared before.
        sparsity: fraction of the prunable weights to remove, in [0, 1). None where N:M patterns imply it.
        scope: "global", tiles of all layers compete, or "layer". N:M groups always compete among themselves.
        search_steps, dense_steps: length of the stages in calls of ``step()``.
        temperature: (start, end) of a cosine, or a function of the progress of the search in [0, 1].
        warmup: fraction of the search in which the budget shrinks from everything to its target; 0 for a fixed budget.
        eps: tiles with a mask of at most this are not computed. Default: min(1e-3, 0.1 * keep / n).
        filter_fn: ``(module, name) -> bool``, which layers; see ``mask_``.
        straight_through: N:M only; multiply by hard masks in the search, with the gradients of the soft ones.
        example_input: for ``Channel``, prunes layers that share channels together, so that ``slim_`` can remove them;
            see ``mask_``. The budget counts the rows of all layers that write a channel.

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
        temperature: tuple[float, float] | Callable[[float], float] = (0.2, 1e-3),
        warmup: float = 0.5,
        eps: float | None = None,
        filter_fn: Callable[[nn.Module, str], bool] | None = None,
        straight_through: bool = False,
        example_input=None,
    ):
        self.plan = Plan(search_steps, dense_steps, temperature, warmup)
        if pattern is None and not (filter_fn is None and example_input is None):
            raise ValueError("filter_fn and example_input say where a pattern goes, so pattern must be given, got None")
        if pattern is not None:
            mask_(model, pattern, filter_fn, example_input)
        self.model, self.sharing = model, sharing(model)
        self.layers = {name: layers[name] for name, layers in self.sharing.items()}
        try:
            self.pools = make_pools(self.sharing, sparsity, scope, eps, straight_through)
        except ValueError:
            if pattern is not None:
                unmask_(model)  # so that a second attempt finds plain layers
            raise
        self.steps, self.stage = 0, "dense"

    def parameters(self) -> list[nn.Parameter]:
        """The scores, each tensor once. They want an adaptive optimizer and no weight decay."""
        return [layer.scores for layer in self.layers.values()]

    def param_group(self, lr: float = 0.1) -> dict[str, Any]:
        """The scores as a parameter group for Adam. 0.03 suits N:M better."""
        return {"params": self.parameters(), "lr": lr, "weight_decay": 0.0}

    def weights(self) -> list[nn.Parameter]:
        """All other parameters of the model."""
        scores = {id(parameter) for parameter in self.parameters()}
        return [parameter for parameter in self.model.parameters() if id(parameter) not in scores]

    def step(self) -> None:
        """Set the masks for the coming optimizer step, before its first forward; they stay through accumulation.

        Never waits for the GPU, but for the one step that hardens the masks.

        Raises:
            ValueError: the pruner is finalized.
        """
        self._check_open()
        self.steps += 1
        if self.stage == "dense" and self.steps > self.plan.dense_steps:
            self._start_search()
        if self.stage == "search" and self.steps > self.plan.dense_steps + self.plan.search_steps:
            self.harden()
        if self.stage == "search":
            for pool in self.pools:
                self.set_gates(pool.soft_gates(self.keep(pool), self.temperature))

    @property
    def temperature(self) -> float:
        """Of the masks now; 0 outside the search."""
        return self.plan.temperature_at(self.steps - 1) if self.stage == "search" else 0.0

    def keep(self, pool: Pool) -> float:
        """What the soft masks of ``pool`` keep now."""
        return pool.keep(self.plan.progress(self.steps - 1), self.plan.warmup)

    def harden(self) -> None:
        """End the search: the best scores within the budget are kept, masks are fixed and scores frozen.

        In the dense stage this is one-shot pruning by magnitude; in the finetune stage it does nothing.

        Raises:
            ValueError: NaN in the scores, a budget too small for the best tile of each layer, or a finalized pruner.
        """
        self._check_open()
        if self.stage == "finetune":
            return
        if self.stage == "dense":
            self._start_search()
        check_not_nan("scores", {name: layer.scores for name, layer in self.layers.items()})
        self.fix_masks({name: mask for pool in self.pools for name, mask in pool.hard_masks().items()})

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

    def report(self) -> dict[str, Any]:
        """The state of affairs, in fractions of the prunable weights.

        Returns:
            step, stage, temperature; asked_sparsity and kept_sparsity, the latter if the masks were hardened now;
            live: the fraction whose mask is above eps; gap: ``sum |mask - hard| / kept``; and for each layer in layers
            its weights and how many are kept, and for N:M the score_lost to further constraints (``NM.score_lost``).

        Raises:
            ValueError: NaN in scores or masks, naming the layers: this is the only place that looks for it. Or a
                finalized pruner.
        """
        self._check_open()
        return status(self)

    def state_dict(self) -> dict[str, Any]:
        """What ``model.state_dict()``, which holds weights and scores, does not know: stage, thresholds, hard masks."""
        return state.take(self)

    def load_state_dict(self, taken: dict[str, Any]) -> None:
        """Continue where ``state_dict()`` was taken; ``model.load_state_dict`` has to bring the rest.

        Raises:
            ValueError: the state is of other layers, patterns or budgets.
        """
        state.restore(self, taken)

    def fix_masks(self, masks: dict[str, Tensor]) -> None:
        """Enter the finetune stage with these (rows, cols) masks."""
        self.set_gates({name: HardGate(mask.to(self.layers[name].scores.device)) for name, mask in masks.items()})
        for layer in self.layers.values():
            layer.scores.requires_grad_(False)
            layer.scores.grad = None  # or an optimizer would go on with the last one
        self.stage = "finetune"

    def set_gates(self, gates: dict[str, HardGate | SoftGate | GroupGate | None]) -> None:
        """Give each layer, and those that share its scores, its gate."""
        for name, gate in gates.items():
            for layer in self.sharing[name].values():
                layer.gate = gate

    def _check_open(self) -> None:
        if self.stage == "finalized":
            raise ValueError("a pruner must have masked layers, got one after finalize(): they are plain now")

    @torch.no_grad()
    def _start_search(self) -> None:
        for layers in self.sharing.values():
            start_scores_(list(layers.values()), standardised)
        self.stage = "search"
