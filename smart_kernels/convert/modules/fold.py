"""``fold_batchnorm_``: in evaluation a BatchNorm is a factor and a sum, which the layer in front can do for free."""

from itertools import chain

import torch
from torch import nn

from .graph import BATCHNORMS, following_batchnorms, users_of_weights
from .swap import swap_

LAYERS = (nn.Linear, nn.Conv2d)


class Folded(nn.Identity):
    """Where a BatchNorm was."""


def fold_batchnorm_(model: nn.Module) -> list[str]:
    """Fold each BatchNorm into the layer in front of it, in place; ``Folded``, an identity, stays in its stead.

        scale = gamma / sqrt(running_var + eps)
        weight <- weight * scale        bias <- (bias - running_mean) * scale + beta

    Folded is a BatchNorm that reads the output of a plain ``nn.Linear`` or ``nn.Conv2d`` which nothing else reads, both
    called once, in evaluation, with running statistics, and with no weight shared. The graph is traced; where tracing
    fails, neighbours in ``nn.Sequential`` count. Zeros of the weight stay zeros. A channel whose gamma is 0 is dead
    afterwards, and its bias is beta.

    Args:
        model: in evaluation mode; what is in training mode stays as it is.

    Returns:
        The names of the BatchNorms that are gone.
    """
    users = users_of_weights(model)
    names = {module: name for name, module in model.named_modules()}
    folded = []
    for layer, norm in following_batchnorms(model).items():
        if type(layer) in LAYERS and type(norm) in BATCHNORMS and _foldable(layer, norm, users):
            _fold(layer, norm)
            swap_(model, {norm: Folded()})
            folded.append(names[norm])
    return folded


def _foldable(layer: nn.Module, norm: nn.Module, users: dict[int, list[str]]) -> bool:
    alone = all(len(users[id(p)]) == 1 for p in chain(layer.parameters(), norm.parameters()))
    hooks = any(m._forward_hooks or m._forward_pre_hooks for m in (layer, norm))
    return alone and not hooks and not layer.training and not norm.training and norm.running_var is not None


@torch.no_grad()
def _fold(layer: nn.Module, norm: nn.Module) -> None:
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.affine:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        shift = shift + norm.bias.double()
    if layer.bias is not None:
        shift = shift + layer.bias.double() * scale
    weight = layer.weight.double() * scale.view(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight.data = weight.to(layer.weight.dtype)  # in other memory: who shares the old one keeps what it has
    layer.bias = nn.Parameter(shift.to(layer.weight.dtype), layer.weight.requires_grad)


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
        swap_(model, {modules[name]: Folded()})
    for name in biased if names else ():
        layer = modules.get(name)
        if isinstance(layer, LAYERS) and layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(layer.weight.shape[0]))
