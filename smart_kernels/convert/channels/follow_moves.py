"""Rules for operators that move data: they are run on the numbers. See ``rules.py``."""

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from .follow_values import mix
from .ties import Channels


def move(follower, function, args, kwargs, outputs):
    """Move the numbers in the same way."""

    def on(part: int):
        def stand_in(x):
            if not isinstance(x, Tensor):
                return x
            return follower.channels(x)[part].expand(x.shape) if x.dtype.is_floating_point else x.cpu()

        moved = function(*tree_map(stand_in, args), **tree_map(stand_in, kwargs))
        return [t for t in tree_leaves(moved) if isinstance(t, Tensor)]

    return [Channels.thin(numbers, zero) for numbers, zero in zip(on(0), on(1), strict=True)]


def shape(follower, function, args, kwargs, outputs):
    """Move the numbers; what depends on how many channels there are mixes them, unless all come out in order."""
    before = follower.channels(args[0]).numbers
    moved = move(follower, function, args, kwargs, outputs)
    for after in (channels.numbers for channels in moved):
        times, rest = divmod(after.numel(), before.numel())
        split = sum(size > 1 for size in after.shape) > 1
        if rest or split or not after.flatten().equal(before.flatten().repeat_interleave(times)):
            return mix(follower, function, args, kwargs, outputs)
    return moved


def chunk(follower, function, args, kwargs, outputs):
    """Tie channels at the same place of each part, so that equal parts stay equal."""
    moved = move(follower, function, args, kwargs, outputs)
    if len({tuple(channels.numbers.shape) for channels in moved}) > 1:
        return mix(follower, function, args, kwargs, outputs)
    for channels in moved[1:]:
        follower.ties.tie(moved[0].numbers, channels.numbers)
    return moved
