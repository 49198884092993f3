"""Rules for operators that move data: they are run on the numbers. See ``rules.py``."""

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .follow_places import mix
from .operands import first, replaced, tensors_of
from .ties import STAYS, Channels

VIEWS = ("view", "view_as", "unflatten")  # of memory, which numbers that are only expanded do not have
ONLY_SHAPE = ("expand_as", "view_as", "reshape_as")  # take the shape of their second tensor and nothing else


def move(follower, function, args, kwargs, outputs):
    """Move the numbers in the same way; what says where to, an index say, stays."""
    movers = {id(t) for t in tensors_of(first(args, kwargs))}
    if function.__name__ not in ONLY_SHAPE:
        follower.stay(*(t for t in tensors_of((args, kwargs)) if id(t) not in movers))

    def on(part: int) -> list[Tensor]:
        def stand_in(t):
            if id(t) not in movers:
                return t.cpu()
            channels = follower.channels(t)
            return (channels.full(t.shape) if function.__name__ in VIEWS else channels.expand(t.shape))[part]

        args_, kwargs_ = replaced(args, kwargs, stand_in)
        return tensors_of(function(*args_, **kwargs_))

    return [Channels.thin(numbers, zero) for numbers, zero in zip(on(0), on(1), strict=True)]


def shape(follower, function, args, kwargs, outputs):
    """Move the numbers; what depends on how many channels there are mixes them, unless all come out in order."""
    before = follower.channels(first(args, kwargs)).numbers
    moved = move(follower, function, args, kwargs, outputs)
    if len(moved) == 1 and _in_parts(before, moved[0].numbers):
        return [_tied_parts(follower, moved[0])]
    if not all(_in_order(before, after.numbers) for after in moved):
        return mix(follower, function, args, kwargs, outputs)
    return moved


def lookup(follower, function, args, kwargs, outputs):
    """Move the numbers; what a table holds along a dimension that is read by an index lives and dies together."""
    table = first(args, kwargs)
    if follower.known(table) and table.is_floating_point():
        for dim in _looked_up(args[1:]):
            follower.unite(table, dim)
    return shape(follower, function, args, kwargs, outputs)


def chunk(follower, function, args, kwargs, outputs):
    """Tie channels at the same place of each part, so that equal parts stay equal."""
    moved = move(follower, function, args, kwargs, outputs)
    if len({tuple(channels.numbers.shape) for channels in moved}) > 1:
        return mix(follower, function, args, kwargs, outputs)
    for channels in moved[1:]:
        follower.ties.tie(moved[0].numbers, channels.numbers)
    return moved


def glu(follower, function, args, kwargs, outputs):
    """Tie the two halves; the result is zero where the first is."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
    return chunk(follower, torch.chunk, (first(args, kwargs), 2, dim), {}, outputs)[:1]


def write(follower, function, args, kwargs, outputs):
    """Follow ``x[index] = value``: fresh memory takes over the channels of the value, as ``cat`` would.

    In other memory all channels of a place must be written, and those of the value are tied to them.
    """
    x, index, value = args
    follower.stay(*tensors_of(index))
    index = tree_map(lambda i: i.cpu() if isinstance(i, Tensor) else i, index)
    before = follower.channels(x)
    numbers, zero = before.full(x.shape)
    place = numbers[index]
    if not isinstance(value, Tensor):
        zero[index] = bool(value == 0)
    else:
        new = follower.channels(value).full(value.shape)
        zero[index] = new.zero
        if not follower.known(x) and (place == STAYS).all():
            numbers[index] = new.numbers
            return [Channels.thin(numbers, zero)]
    if not _in_order(before.numbers, Channels.thin(place, torch.zeros_like(place, dtype=torch.bool)).numbers):
        return mix(follower, function, args, kwargs, outputs)
    if isinstance(value, Tensor):
        follower.ties.tie(place, new.numbers)
    return [Channels.thin(numbers, zero)]


def fresh(follower, function, args, kwargs, outputs):
    """Start memory that takes its type from a tensor, and nothing of its values."""
    return [None] * len(outputs)


def _looked_up(index: tuple) -> list[int]:
    """Return the dimensions that tensors of whole numbers index, for ``x[index]`` with nothing else but ``:``."""
    parts = index[0] if len(index) == 1 and isinstance(index[0], tuple) else index
    tables = [dim for dim, part in enumerate(parts) if isinstance(part, Tensor) and part.dtype == torch.int64]
    others = [part for dim, part in enumerate(parts) if dim not in tables]
    return tables if all(isinstance(part, slice) and part == slice(None) for part in others) else []


def _in_parts(before: Tensor, after: Tensor) -> bool:
    """Return whether all numbers came out in order, along two dimensions for one: parts, and channels of each."""
    varying = [sum(size > 1 for size in part.shape) for part in (before, after)]
    return varying == [1, 2] and after.flatten().equal(before.flatten())


def _tied_parts(follower, channels: Channels) -> Channels:
    """Tie the channels at the same place of each part."""
    dim = next(dim for dim, size in enumerate(channels.numbers.shape) if size > 1)
    numbers = channels.numbers.narrow(dim, 0, 1)
    follower.ties.tie(numbers, channels.numbers)
    return Channels(numbers, channels.zero.all(dim, keepdim=True))


def _in_order(before: Tensor, after: Tensor) -> bool:
    """Return whether all numbers came out along one dimension, in order, each or all of them several times; or back."""
    if any(sum(size > 1 for size in part.shape) > 1 for part in (before, after)):
        return before.equal(after)
    few, many = sorted((before.flatten(), after.flatten()), key=len)
    times, rest = divmod(len(many), len(few))
    return not rest and (many.equal(few.repeat_interleave(times)) or many.equal(few.repeat(times)))
