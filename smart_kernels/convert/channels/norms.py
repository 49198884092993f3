"""Which norms of a model can be over fewer channels, found by trying them."""

import copy
from itertools import product

import torch
from torch import Tensor, nn

from smart_kernels.convert.modules import agrees, why_no_norm
from smart_kernels.nn import LiveNorm, NormKind, live_norm, live_norm_class

from .resize import resize_

EPS = ("eps", "variance_epsilon")  # what classes call it
ROWS = 4  # of the input that a norm is tried on: two as activations are, two so small that eps counts


def watch_norms_(model: nn.Module) -> None:
    """Let the norms of a model that can lose channels be over the live ones, which are all so far."""
    for module in model.modules():
        kind = kind_of(module)
        if kind is not None:
            module.__class__ = live_norm_class(type(module))
            module.attach(kind)


def settle_norms_(model: nn.Module) -> None:
    """Make the norms plain again of which no channel can be pruned."""
    for module in model.modules():
        if isinstance(module, LiveNorm):
            module.settle()


def kind_of(module: nn.Module) -> NormKind | None:
    """Return what a LayerNorm or RMSNorm over the last dimension computes, whatever its class; None for all else.

    The module is run on random numbers, and so is a copy with half of the channels, which must need nothing more.
    """
    if isinstance(module, LiveNorm) or why_no_norm(module) is not None:
        return None
    with torch.no_grad():
        try:
            fewer = _cut(module, len(module.weight) // 2)
            tried = [(norm, x, type(norm).forward(norm, x)) for norm in (module, fewer) for x in [_input(norm.weight)]]
        except Exception:  # it takes other inputs
            return None
        return next((kind for kind in _kinds(module) if all(_computes(kind, *each) for each in tried)), None)


def _kinds(module: nn.Module) -> list[NormKind]:
    given = [getattr(module, name) for name in EPS if hasattr(module, name)]
    eps = [torch.finfo(module.weight.dtype).eps if each is None else each for each in given]
    return [NormKind(*kind) for kind in product((True, False), eps, (0.0, 1.0)) if isinstance(kind[1], float)]


def _cut(module: nn.Module, count: int) -> nn.Module:
    """Return a copy of a norm with its first ``count`` channels."""
    cut = copy.copy(module)
    cut.__dict__["_parameters"] = {
        name: None if p is None else nn.Parameter(p.detach()[:count], False) for name, p in module._parameters.items()
    }
    resize_(cut)
    return cut


def _input(weight: Tensor) -> Tensor:
    """Return (2, ROWS, N) random numbers with a mean, some rows so small that eps counts."""
    x = torch.randn(2, ROWS, len(weight), generator=torch.Generator().manual_seed(0)) + 1
    x[:, ROWS // 2 :] *= 1e-3
    return x.to(weight)


def _computes(kind: NormKind, norm: nn.Module, x: Tensor, y) -> bool:
    """Return whether a norm that gave y for x is of this kind; small rows are compared by themselves."""
    if not isinstance(y, Tensor) or y.shape != x.shape:
        return False
    wanted = live_norm(x, norm.weight, norm._parameters.get("bias"), None, kind)
    return all(agrees(*rows) for rows in zip(y.split(ROWS // 2, 1), wanted.split(ROWS // 2, 1), strict=True))
