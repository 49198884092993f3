"""Pruning at once, by magnitudes that know their neighbours."""

import torch
from torch import Tensor, nn

from smart_kernels import Masked
from smart_train.masks import tile_means

from .oneshot import OneShotPruner


class LookaheadPruner(OneShotPruner):
    """One-shot pruning by lookahead scores: ``w_ij^2 |W_before[j, :]|^2 |W_after[:, i]|^2``, added up over the tile.

    After Park et al., "Lookahead: A Far-sighted Alternative of Magnitude-based Pruning" (ICLR 2020, arXiv 2002.04809),
    from its code: the scores of a layer are divided by their norm to be ranked against other layers', the factors
    gamma^2 of BatchNorms count, a neighbour that is missing counts 1. All at once and from the weights before pruning.
    Our reading: the neighbours of a layer are the Linear or Conv2d before and after it in the order of the modules,
    where channels fit; what is added to outputs on the way is not looked at. Tiles are ranked by their mean.
    """

    title = "Lookahead"

    def score(self):
        before, after = neighbours(self.model)
        found = tile_means(self.masked, lambda layer: lookahead(layer, before.get(layer), after.get(layer)))
        for name, layer in self.layers.items():
            layer.scores.copy_(found[name] / found[name].norm().clamp_min(1e-30))


def lookahead(layer: Masked, before: Tensor | None, after: Tensor | None) -> Tensor:
    """Return (N, taps, C) scores of single weights.

    Args:
        before: (C,) squared norms of the rows before, None for 1.
        after: (N,) squared norms of the columns behind, None for 1.
    """
    scores = layer.matrix().detach().square()
    scores = scores if before is None else scores * before
    return scores if after is None else scores * after[:, None, None]


@torch.no_grad()
def neighbours(model: nn.Module) -> tuple[dict[nn.Module, Tensor], dict[nn.Module, Tensor]]:
    """Return for each layer the squared norms of the rows before its inputs and of the columns behind its outputs."""
    before: dict[nn.Module, Tensor] = {}
    after: dict[nn.Module, Tensor] = {}
    last: tuple[nn.Module, Tensor | float] | None = None  # with the squared factors behind it
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine and last:
            gamma = module._parameters["weight"].square()
            if len(gamma) == _rows(last[0]):
                last = last[0], last[1] * gamma
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            if last and _rows(last[0]) == _columns(module):
                rows = _raw(last[0]).square().flatten(1).sum(1)
                before[module] = rows * last[1]
                after[last[0]] = _per_column(module) * last[1]
            last = module, 1.0
    return before, after


def _raw(module: nn.Module) -> Tensor:
    return module._parameters["weight"]


def _rows(module: nn.Module) -> int:
    return len(_raw(module))


def _columns(module: nn.Module) -> int:
    return _raw(module).shape[1] * getattr(module, "groups", 1)


def _per_column(module: nn.Module) -> Tensor:
    """Return the squared norm of what reads each input channel."""
    weight = _raw(module).square()
    groups = getattr(module, "groups", 1)
    return weight.unflatten(0, (groups, -1)).flatten(3).sum((1, 3)).flatten() if weight.dim() > 2 else weight.sum(0)
