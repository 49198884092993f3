"""The rule for recurrent layers: their inputs are followed, what they give stays. See ``rules.py``."""

import inspect

import torch
from torch import Tensor

from .follow_places import mix
from .operands import first
from .ties import Channels

PADDED = inspect.signature(
    lambda input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first: None
)
PACKED = inspect.signature(lambda input, sizes, hx, params, has_biases, num_layers, dropout, train, bidirectional: None)


def pack(follower, function, args, kwargs, outputs):
    """Pass the last dimension on; sequences lie behind each other in the first."""
    x = first(args, kwargs)
    found = follower.channels(x).vector(-1, x.shape[-1])
    if found is None:
        return mix(follower, function, args, kwargs, outputs)
    return [Channels(*(part[None] for part in found)), None]


def recurrent(follower, function, args, kwargs, outputs):
    """Follow the input to the columns of the first layer's weights; states and outputs stay."""
    packed = len(args) > 1 and isinstance(args[1], Tensor) and not args[1].is_floating_point()
    bound = (PACKED if packed else PADDED).bind(*args, **kwargs).arguments
    x, hx, weights = bound["input"], bound["hx"], bound["params"]
    found = follower.channels(x).vector(-1, x.shape[-1])
    directions = 1 + bool(bound["bidirectional"])
    each = len(weights) // (bound["num_layers"] * directions)
    entries = [weights[each * direction] for direction in range(directions)]
    if found is None or not all(follower.known(weight) for weight in entries):
        follower.stay(x)
        found = (torch.zeros(x.shape[-1], dtype=torch.int64), torch.zeros(x.shape[-1], dtype=torch.bool))
    numbers, zero = found
    for weight in entries:
        follower.axis(weight, 1, numbers)
        used = (weight.detach() != 0).any(0).cpu() & ~zero
        follower.read.update(numbers[used].tolist())
    follower.stay(*(hx if isinstance(hx, tuple | list) else (hx,)))
    return [None] * len(outputs)
