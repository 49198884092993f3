"""Filters in groups: what penalises a group for the inputs that it has, and the order in which they go.

Everywhere member is (groups, filters), how much a filter is in each group, with columns that sum to 1; energy is
(filters, inputs), the sum of squared weights of a tile.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-30


def hard(logits: Tensor) -> Tensor:
    """Return the member with every filter in its likeliest group, for (groups, filters) logits."""
    return F.one_hot(logits.argmax(0), len(logits)).T


def slope(member: Tensor, energy: Tensor, moved: Tensor) -> Tensor:
    """Return the derivative of ``size(group) sum over inputs of |member * W|`` for weights that move by some dw.

    Args:
        moved: (filters, inputs) the sum of w dw over a tile.
    """
    norms = (member.square() @ energy).clamp_min(TINY).sqrt()
    return (_sizes(member)[:, None] * (member.square() @ moved) / norms).sum()


def lasting(member: Tensor, energy: Tensor) -> Tensor:
    """Return (filters, inputs): how far the penalty can push a tile before it is 0, ``|member * W| / size(group)``."""
    return ((member @ energy).sqrt() / _sizes(member)[:, None])[member.argmax(0)]


def _sizes(member: Tensor) -> Tensor:
    """Return (groups,) ``(sum of member^0.5)^2 (groups / filters)^1.5``: even groups weigh less than uneven ones."""
    return member.clamp_min(TINY).sqrt().sum(1).square() * (len(member) / member.shape[1]) ** 1.5


def shares(member: Tensor, energy: Tensor) -> Tensor:
    """Return (filters, inputs): the part of its group's energy that is gone when a tile and all before it are.

    Inputs of a group go one after the other, the one with the least energy first, and of its tiles the smallest first.
    The last tile of a group, whose part is 1, gets 1 and its own part.
    """
    found = torch.empty_like(energy)
    groups = member.argmax(0)
    for group in groups.unique():
        own = energy[groups == group].double()
        flat, inputs = own.flatten(), own.sum(0).expand_as(own).flatten()
        order = flat.argsort(stable=True)
        order = order[inputs[order].argsort(stable=True)]
        gone = torch.empty_like(flat)
        gone[order] = flat[order].cumsum(0)
        gone[order[-1]] += flat[order[-1]]
        found[groups == group] = (gone / flat.sum().clamp_min(TINY)).view_as(own).to(energy)
    return found
