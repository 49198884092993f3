"""``Pruner``, the seam between a method of pruning and everything else."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from smart_kernels import Pattern
from smart_train.masks import Budget, Graphed, MaskedModel
from smart_train.plans import Plan
from smart_train.schedule import Lengths

from .findings import Findings
from .staged import Staged
from .watch import Watch


class Pruner(Staged):
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
        pattern: what is kept or pruned together; None takes the layers that ``mask_`` has prepared before. A ``Plan``
            says it layer by layer, and how much: then layers share what it limits, time for example, at its prices.
        sparsity: fraction of the prunable weights to remove, in [0, 1). None where N:M patterns or a plan imply it.
        scope: "global", tiles of all layers compete, or "layer". N:M groups always compete among themselves.
        search_steps, dense_steps: length of the stages in calls of ``step()``.
        eps: tiles with a mask of at most this are not computed. Default: min(1e-3, 0.1 * keep / n).
        filter_fn: ``(module, name) -> bool``, which layers; see ``mask_``.
        example_input: for ``Channel``, prunes layers that share channels together, so that ``slim_`` can remove them;
            see ``mask_``. The budget counts the rows of all layers that write a channel.
        process_group: the processes that train this model together; None for all, or those of the
            ``DistributedDataParallel`` that ``model`` is; see docs/scaling.md.

    Attributes:
        layers: the masked layers by name; of those that share scores, the first.
        pools: which of them compete for which budget.
        steps, stage: calls of ``step()`` so far, and where they have led.

    Raises:
        ValueError: no layer to prune, a value out of its range, or a budget too small for one tile per layer; or it is
            made in ``inference_mode``.
    """

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern | Plan | None = None,
        sparsity: float | None = None,
        *,
        scope: str = "global",
        search_steps: int,
        dense_steps: int = 0,
        eps: float | None = None,
        filter_fn: Callable[[nn.Module, str], bool] | None = None,
        example_input: Any = None,
        process_group: ProcessGroup | None = None,
    ):
        self.lengths = Lengths(search_steps, dense_steps)
        where = {"filter_fn": filter_fn, "example_input": example_input, "process_group": process_group}
        self.masked = MaskedModel(model, pattern, Budget(sparsity, scope, eps), check=self.check, **where)
        self.model = self.masked.model
        self.layers = self.masked.layers
        self.pools = self.masked.pools
        self.steps = 0
        self.stage = "dense"
        self.masked.train_scores(self.learns)
        self.watch = Watch(self.masked)
        self.findings = Findings(self.masked, self.learns)

    def param_group(self, lr: float = 0.1) -> dict[str, Any]:
        """Return ``parameters()`` as a parameter group for Adam. 0.03 suits N:M better."""
        return {"params": self.parameters(), "lr": lr, "weight_decay": 0.0}

    def weights(self) -> list[nn.Parameter]:
        """Return all other parameters of the model."""
        own = {id(parameter) for parameter in self.parameters()}
        return [parameter for parameter in self.model.parameters() if id(parameter) not in own]

    def graphed(self, *example: Tensor) -> Callable[..., Any]:
        """Return the model as CUDA graphs of its forward and backward, which read the masks as they are by then.

        By ``torch.cuda.make_graphed_callables``, whose rules hold for the model; that alone would go on with the masks
        of its capture. Call this after a ``step()`` of each stage, and ``step()`` outside of the graphs, as ever.

        Args:
            example: arguments of the model on a GPU; what comes later must have their shapes.

        Raises:
            ValueError: the pruner is finalized, or several processes train the model; in a call of what is returned,
                the masks have become of another kind, as they do with the stage.
        """
        self._check_open()
        if self.masked.ranks.count != 1:
            raise ValueError(f"one process must train a model in graphs, got {self.masked.ranks.count}")
        return Graphed(self.masked, example, torch.cuda.make_graphed_callables)

    def state_dict(self) -> dict[str, Any]:
        """Return what ``model.state_dict()``, which holds weights and scores, does not know: stage and masks.

        Plain enough for ``torch.load(weights_only=True)``. A method with more to keep adds it.
        """
        return {"step": self.steps, "stage": self.stage, **self.masked.state_dict(), **self.findings.state_dict()}

    def load_state_dict(self, taken: dict[str, Any]) -> None:
        """Continue where ``state_dict()`` was taken; ``model.load_state_dict`` has to bring the rest.

        Raises:
            ValueError: the state is of other layers, patterns or budgets, or none.
        """
        needed = {"step", "stage", *self.masked.state_dict()}
        if not isinstance(taken, dict) or not needed <= taken.keys():
            raise ValueError(f"the state must be one that state_dict() gave, with {', '.join(sorted(needed))}")
        self.masked.load_state_dict(taken)
        self.findings.load_state_dict(taken)
        self.steps = taken["step"]
        self.stage = taken["stage"]
        self.masked.train_scores(self.learns and self.stage != "finetune")
        self.watch.close()
        self.watch = Watch(self.masked)
