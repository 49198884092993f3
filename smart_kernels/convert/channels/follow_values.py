"""Rules for operators that work on single values. See ``rules.py``."""

import torch
from torch import Tensor

from .operands import first, replaced, tensors_of
from .ties import STAYS, Channels


def keep(follower, function, args, kwargs, outputs):
    """Pass the channels of the first tensor on: zero stays zero where the function says so."""
    numbers, zero = follower.channels(first(args, kwargs))
    return [Channels(numbers, zero & _gives_zero(function, args, kwargs))]


def elementwise(follower, function, args, kwargs, outputs):
    """Tie what meets; the result is zero where all are, if the function says so."""
    numbers, zeros = _meet(follower, args, kwargs, outputs)
    zero = torch.stack(torch.broadcast_tensors(*zeros)).all(0) & _gives_zero(function, args, kwargs)
    return [Channels.thin(*torch.broadcast_tensors(numbers, zero))]


def product(follower, function, args, kwargs, outputs):
    """Tie what meets; the result is zero where one of both is."""
    numbers, zeros = _meet(follower, args, kwargs, outputs)
    zero = torch.stack(torch.broadcast_tensors(*zeros)).any(0)
    return [Channels.thin(*torch.broadcast_tensors(numbers, zero))]


def quotient(follower, function, args, kwargs, outputs):
    """Tie what meets; the result is zero where the dividend is."""
    numbers, zeros = _meet(follower, args, kwargs, outputs)
    zero = zeros[0] & isinstance(first(args, kwargs), Tensor)
    return [Channels.thin(*torch.broadcast_tensors(numbers, zero))]


def _meet(follower, args, kwargs, outputs) -> tuple[Tensor, list[Tensor]]:
    """Tie the numbers of all tensors; return those of the result, and the zeros of each tensor.

    One whose channels each meet several of another (a factor for all of them, say) stays and does not tie them.
    """
    rank = outputs[0].dim()
    tensors = tensors_of((args, {name: value for name, value in kwargs.items() if name != "out"}))
    numbers, zeros = zip(*(_ranked(follower.channels(t), rank) for t in tensors), strict=True)
    sizes = [[1] * (rank - t.dim()) + list(t.shape) for t in tensors]
    alike = []
    for own, mine in zip(sizes, numbers, strict=True):
        if any(_spread(own, other, theirs) for other, theirs in zip(sizes, numbers, strict=True)):
            follower.ties.stay(mine)
        else:
            alike.append(mine)
    for other in alike[1:]:
        follower.ties.tie(alike[0], other)
    return min(alike, key=Tensor.numel, default=torch.full([1] * rank, STAYS)), list(zeros)


def _gives_zero(function, args, kwargs) -> Tensor:
    """Return whether the function of zeros is 0."""
    args, kwargs = replaced(args, kwargs, lambda t: t.new_zeros([1] * t.dim()))
    return (function(*args, **kwargs) == 0).all().cpu()


def _ranked(channels: Channels, rank: int) -> Channels:
    return Channels(*(part.view([1] * (rank - part.dim()) + list(part.shape)) for part in channels))


def _spread(sizes: list[int], others: list[int], numbers: Tensor) -> bool:
    """Return whether one channel of the first meets several of the other."""
    return any(a == 1 and b > 1 and n > 1 for a, b, n in zip(sizes, others, numbers.shape, strict=True))
