"""Rules for operators that combine values: element by element, over places, or all of them. See ``rules.py``."""

import inspect

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .ties import Channels


def keep(follower, function, args, kwargs, outputs):
    """Pass channels through a function of single values: zero stays zero where the function says so."""
    numbers, zero = follower.channels(args[0])
    probe = function(args[0].new_zeros([1] * args[0].dim()), *args[1:], **kwargs)
    return [Channels(numbers, zero & (probe == 0).cpu())]


def combine(follower, function, args, kwargs, outputs):
    """Tie what meets, element by element."""
    name = function.__name__
    if not all(isinstance(arg, Tensor) for arg in args[:2]):
        return keep(follower, function, args, kwargs, outputs)
    rank = outputs[0].dim()
    (a, zero_a), (b, zero_b) = (_ranked(follower.channels(x), rank) for x in args[:2])
    sizes = [[1] * (rank - x.dim()) + list(x.shape) for x in args[:2]]
    if _spread(sizes[0], sizes[1], b):
        follower.ties.stay(a)
        numbers = b
    elif _spread(sizes[1], sizes[0], a):
        follower.ties.stay(b)
        numbers = a
    else:
        follower.ties.tie(a, b)
        numbers = a
    either = "mul" in name
    zero = zero_a | zero_b if either else zero_a if "div" in name else zero_a & zero_b
    return [Channels(*torch.broadcast_tensors(numbers, zero))]


def pool(follower, function, args, kwargs, outputs):
    """Pass channels through a function over places, each by itself."""
    numbers, zero = follower.channels(args[0])
    places = numbers.shape[2:] if numbers.dim() == args[0].dim() else ()
    if any(size > 1 for size in places):
        return mix(follower, function, args, kwargs, outputs)
    return [Channels(numbers, zero) for _ in outputs]


def pad(follower, function, args, kwargs, outputs):
    """Add channels for what is padded on: they stay, and are zero where the padding is."""
    bound = inspect.signature(F.pad).bind(*args, **kwargs).arguments
    numbers, zero = follower.channels(bound["input"])
    widths = list(bound["pad"])
    for dim in range(len(widths) // 2):
        if numbers.shape[-1 - dim] == 1:
            widths[2 * dim : 2 * dim + 2] = 0, 0
    zeros = bound.get("mode", "constant") != "constant" or not bound.get("value")
    return [Channels(F.pad(numbers, widths), F.pad(zero, widths, value=True) & zeros)]


def reduce(follower, function, args, kwargs, outputs):
    """Drop dimensions that hold the same channels."""
    numbers, zero = follower.channels(args[0])
    dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
    dims = [dims] if isinstance(dims, int) else list(range(numbers.dim()) if dims is None else dims)
    if any(numbers.shape[dim] > 1 for dim in dims):
        return mix(follower, function, args, kwargs, outputs)
    if outputs[0].dim() < numbers.dim():
        numbers, zero = (part.squeeze(tuple(dims)) for part in (numbers, zero))
    return [Channels(numbers, zero)]


def mix(follower, function, args, kwargs, outputs):
    """Let all channels stay, because every output depends on all of them."""
    follower.stay(*(t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.dtype.is_floating_point))
    return [None] * len(outputs)


def _ranked(channels: Channels, rank: int) -> Channels:
    return Channels(*(part.view([1] * (rank - part.dim()) + list(part.shape)) for part in channels))


def _spread(sizes: list[int], others: list[int], numbers: Tensor) -> bool:
    """Return whether one channel of the first meets several of the other."""
    return any(a == 1 and b > 1 and n > 1 for a, b, n in zip(sizes, others, numbers.shape, strict=True))
