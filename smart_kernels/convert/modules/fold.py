"""``fold_batchnorm_``: in evaluation a BatchNorm is a factor and a sum, which the layer in front can do for free."""

import logging
from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn

from .before import Outputs
from .followers import following_batchnorms
from .graph import input_of, users_of_weights
from .plain import BATCHNORMS, LAYERS, plain_batchnorm, why_not_plain
from .shards import check_model
from .swap import swap_
from .transaction import whole_or_not_at_all

logger = logging.getLogger("smart_kernels")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Folded(nn.Identity):
    """Where a BatchNorm was. One that a Linear computes takes (N, C) alone: of (N, C, L) it would have read dim 1.

    Raises:
        ValueError: it gets another input.
    """

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.dims = 2 if isinstance(norm, nn.BatchNorm1d) else 4

    def forward(self, input):
        if isinstance(input, Tensor) and input.dim() != self.dims:  # what traces sees no tensor
            raise ValueError(f"the BatchNorm folded here takes {self.dims} dimensions, got {tuple(input.shape)}")
        return input


def fold_batchnorm_(model: nn.Module, example_input=None) -> list[str]:
    """Fold each BatchNorm into the layer in front of it, in place; ``Folded``, an identity, stays in its stead.

        scale = gamma / sqrt(running_var + eps)
        weight <- weight * scale        bias <- (bias - running_mean) * scale + beta

    Folded is a BatchNorm that reads the output of a plain ``nn.Linear``, (N, C), or ``nn.Conv2d`` which nothing else
    reads, both called once, in evaluation, with running statistics, without hooks, and with no weight shared. A
    subclass counts if its forward is that of ``nn.BatchNorm2d``. Zeros of the weight stay zeros. A channel whose gamma
    is 0 is dead afterwards, and its bias is beta.

    Who reads what is proven by tracing the forward; an ``if`` that depends on data is followed both ways.

    Args:
        model: in evaluation mode; what is in training mode stays as it is.
        example_input: tensor, tuple of positional or dict of keyword arguments. With it, a model that cannot be traced
            is run to see who reads what, and the output is compared with that before. Without it, nothing is folded
            in such a model, and a line in the log says so.

    Returns:
        The names of the BatchNorms that are gone.

    Raises:
        TypeError: this is no model, or a script.
        ValueError: the output has changed. The model is as it was then, as after any other error.
    """
    check_model(model, "fold_batchnorm_")
    with whole_or_not_at_all(model):
        expected = None if example_input is None else Outputs(model, example_input)
        folded = fold_proven_(model, example_input)
        if folded and expected is not None:
            expected.check(model, "fold_batchnorm_")
    return folded


def fold_proven_(model: nn.Module, example_input=None) -> list[str]:
    """Do what ``fold_batchnorm_`` does within somebody's transaction, and compare nothing.

    Weights get other memory: a snapshot of the model holds the old one.
    """
    users = users_of_weights(model)
    names = {module: name for name, module in model.named_modules()}
    pairs = following_batchnorms(model, example_input)
    if pairs is None:
        logger.warning("BatchNorms stay: who reads them cannot be traced, and there is no example_input to run")
    folded = []
    across = set() if example_input is None else _across(model, (pairs or {}).values(), example_input)
    for layer, norm in (pairs or {}).items():
        if why_not_plain(layer) is None and norm not in across and _foldable(layer, norm, users):
            _fold(layer, norm)
            swap_(model, {norm: Folded(norm)})
            folded.append(names[norm])
    return folded


def unfoldable(model: nn.Module) -> dict[str, str]:
    """Return the BatchNorms that compute something of their own: name -> why they are not folded."""
    norms = {name: module for name, module in model.named_modules() if isinstance(module, BATCHNORMS)}
    reason = "{} is no plain BatchNorm, so it is not folded"
    return {name: reason.format(type(norm).__name__) for name, norm in norms.items() if not plain_batchnorm(norm)}


def _foldable(layer: nn.Module, norm: nn.Module, users: dict[int, list[str]]) -> bool:
    alone = all(len(users[id(p)]) == 1 for p in chain(layer.parameters(), norm.parameters()))
    fits = len(layer.weight) == norm.num_features and isinstance(norm, nn.BatchNorm1d) == isinstance(layer, nn.Linear)
    hooks = any(getattr(module, name) for module in (layer, norm) for name in HOOKS)
    return alone and fits and not hooks and not layer.training and not norm.training and norm.running_var is not None


def _across(model: nn.Module, norms: Iterable[nn.Module], example_input) -> set[nn.Module]:
    """Return the BatchNorms that read (N, C, L) on the example: behind a Linear, C is none of its outputs."""
    found = set()

    def see(norm: nn.Module, args: tuple, kwargs: dict) -> None:
        if input_of(args, kwargs).dim() != 2:
            found.add(norm)

    hooks = [
        norm.register_forward_pre_hook(see, with_kwargs=True) for norm in norms if isinstance(norm, nn.BatchNorm1d)
    ]
    try:
        if hooks:
            Outputs(model, example_input)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.no_grad()
def _fold(layer: nn.Module, norm: nn.Module) -> None:
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if layer.bias is not None:
        shift = shift + layer.bias.double() * scale
    weight = layer.weight.double() * scale.view(-1, *[1] * (layer.weight.dim() - 1))
    if layer.bias is None:
        layer.bias = nn.Parameter(shift.to(layer.weight.dtype), layer.weight.requires_grad)
    else:
        layer.bias.data = shift.to(layer.bias.dtype)
    layer.weight.data = weight.to(layer.weight.dtype)  # in other memory: who shares the old one keeps what it has


def refold_(model: nn.Module, names: list[str], biased: set[str]) -> None:
    """Make a fresh model look like a folded one, before its tensors are loaded.

    Args:
        names: of the BatchNorms that were folded.
        biased: the layers that have a bias.

    Raises:
        ValueError: the model has no such BatchNorm.
    """
    modules = dict(model.named_modules())
    for name in names:
        if not isinstance(modules.get(name), BATCHNORMS):
            raise ValueError(f"the model must have a BatchNorm {name}, which was folded, got {modules.get(name)}")
        swap_(model, {modules[name]: Folded(modules[name])})
    for name in biased if names else ():
        layer = modules.get(name)
        if isinstance(layer, LAYERS) and layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(layer.weight.shape[0]))
