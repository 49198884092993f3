"""The optimizers of a training, and what a CUDA graph wants of them."""

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from smart_train.pruners import Pruner

from .recipe import Recipe


def optimizers(recipe: Recipe, model: nn.Module, pruner: Pruner | None) -> list[torch.optim.Optimizer]:
    """Return one for the weights, and one for what a pruner learns."""
    if pruner is None:
        return [_for_weights(recipe, list(model.parameters()))]
    own = torch.optim.Adam([pruner.param_group(lr=recipe.lr_scores)])
    pruner.optimizers = [_for_weights(recipe, pruner.weights()), own]
    return list(pruner.optimizers)


def _for_weights(recipe: Recipe, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(weights, recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(weights, recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)


def make_capturable_(optimizer: Optimizer, device: torch.device) -> None:
    """Keep on the device what an optimizer changes from step to step: its learning rates, and Adam's count of steps."""
    for group in optimizer.param_groups:
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
        if isinstance(optimizer, SGD):
            group["fused"] = True  # the only one that reads a learning rate on the device
        else:
            group["capturable"] = True
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = state["step"].to(device)


def set_rate_(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of all groups, on the device where it is there."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def plain_state(optimizer: Optimizer) -> dict:
    """Return ``state_dict()`` as it is without graphs, so that a run may go on with or without."""
    state = optimizer.state_dict()
    for group, default in ((group, optimizer.defaults) for group in state["param_groups"]):
        group["lr"] = float(group["lr"])
        group |= {name: default[name] for name in ("fused", "capturable") if name in default}
    return state
