"""Drive a pruner from a callback, whoever's loop it is called from."""

import math
from typing import Any

import torch

from smart_train.pruners import Pruner


class Driver:
    """Steps a pruner and what it learns, once per optimizer step of a loop that knows nothing of it.

    The scores have an optimizer of their own. The loop's optimizer, made of all parameters, finds no gradient at them
    and leaves them alone: no weight decay, no group to add, and a resumed loop finds the groups it has saved.

    Args:
        pruner: made before the loop makes its optimizer.
        lr: Adam's learning rate for the scores; 0.03 suits N:M better.

    Raises:
        ValueError: the method adds to the loss, which a callback cannot do.
    """

    def __init__(self, pruner: Pruner, lr: float = 0.1):
        if type(pruner).penalty is not Pruner.penalty:
            raise ValueError(
                f"a callback needs a method that leaves the loss alone, got {type(pruner).__name__}: write the loop "
                "yourself, as in the docstring of Pruner"
            )
        self.pruner = pruner
        scores = pruner.parameters() if pruner.learns else []
        self.optimizer = torch.optim.Adam([pruner.param_group(lr)]) if scores else None

    def begin(self, steps: float, optimizer: torch.optim.Optimizer) -> None:
        """Be told how many optimizer steps the loop will take in all, and with which optimizer.

        Raises:
            ValueError: too few for the search and one step of finetuning.
        """
        self.pruner.optimizers = [each for each in (optimizer, self.optimizer) if each is not None]
        needed = self.pruner.lengths.dense_steps + self.pruner.lengths.search_steps
        if steps <= needed:
            raise ValueError(
                f"the trainer must take more optimizer steps than dense_steps + search_steps = {needed}, got {steps}: "
                "train longer, or make the pruner with a smaller search_steps"
            )

    def before_forward(self) -> None:
        """Set the masks of this optimizer step."""
        self.pruner.step()

    def before_update(self) -> None:
        """Update the scores; to be called once the gradients of the step are whole."""
        self.pruner.after_backward()
        if self.optimizer is None:
            return
        for parameter in self.pruner.parameters():
            if parameter.grad is not None:  # a GradScaler finds its scale by steps that overflow; no wait for the GPU
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def after_update(self) -> None:
        """Let the method look at the weights that have moved."""
        self.pruner.after_step()

    def end(self) -> dict[str, Any] | None:
        """Leave plain layers with exact zeros and return the report; None where the search has not ended."""
        return self.pruner.finalize() if self.pruner.stage == "finetune" else None

    def numbers(self) -> dict[str, float]:
        """Return what to log: kept_sparsity, and in the search the gap and the temperature."""
        report = self.pruner.report()
        found = {name: report[name] for name in ("kept_sparsity", "gap", "temperature") if name in report}
        return {name: float(value) for name, value in found.items() if math.isfinite(value)}

    def state_dict(self) -> dict[str, Any]:
        """Return what the model's own state does not hold, fit for ``torch.load(weights_only=True)``."""
        optimizer = None if self.optimizer is None else self.optimizer.state_dict()
        return {"pruner": self.pruner.state_dict(), "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict()`` was taken.

        Raises:
            ValueError: it is of other layers, patterns, budgets or another method.
        """
        if (state["optimizer"] is None) != (self.optimizer is None):
            raise ValueError("the state must be of a pruner whose scores learn as those of this one do, got another")
        self.pruner.load_state_dict(state["pruner"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
