"""Rules for operators that combine the values of several places. See ``rules.py``."""

import inspect
import math

import torch.nn.functional as F
from torch import Tensor

from .follow_values import elementwise
from .operands import first, replaced, tensors_of
from .ties import Channels

NOT_TO_ZERO = ("logsumexp",)  # reductions that do not give 0 for zeros
NORMS = ("norm", "vector_norm", "linalg_vector_norm")  # their second argument is the power


def pool(follower, function, args, kwargs, outputs):
    """Pass channels through a function over places, each by itself."""
    x = first(args, kwargs)
    numbers, zero = follower.channels(x)
    if any(size > 1 for size in numbers.shape[2:]):
        return mix(follower, function, args, kwargs, outputs)
    return [Channels(numbers, zero) for _ in outputs]


def sample(follower, function, args, kwargs, outputs):
    """Pass channels through, from places that another tensor says; that one stays."""
    follower.stay(*tensors_of((args, kwargs))[1:])
    return pool(follower, function, args, kwargs, outputs)


def pad(follower, function, args, kwargs, outputs):
    """Add channels for what is padded on: they stay, and are zero where the padding is."""
    bound = inspect.signature(F.pad).bind(*args, **kwargs).arguments
    numbers, zero = follower.channels(bound["input"])
    widths = list(bound["pad"])
    constant = bound.get("mode", "constant") == "constant"
    for dim in range(len(widths) // 2):
        if numbers.shape[-1 - dim] == 1:
            widths[2 * dim : 2 * dim + 2] = 0, 0
    if any(width < 0 or (width and not constant) for width in widths):
        return mix(follower, function, args, kwargs, outputs)
    zeros = not constant or not bound.get("value")
    return [Channels(F.pad(numbers, widths), F.pad(zero, widths, value=True) & zeros)]


def reduce(follower, function, args, kwargs, outputs):
    """Drop dimensions that hold the same channels; others tie what is reduced to one, as a sum of two tensors would."""
    name = function.__name__.strip("_").removeprefix("linalg_")
    rest = args[2:] if name in NORMS else args[1:]
    x = first(args, kwargs)
    dims = kwargs.get("dim", rest[0] if rest else None)
    if isinstance(dims, Tensor) or "other" in kwargs:
        return elementwise(follower, function, args, kwargs, outputs)
    numbers, zero = follower.channels(x)
    if dims is None or isinstance(dims, bool) or dims == ():
        dims = range(numbers.dim())
    dims = [dims] if isinstance(dims, int) else list(dims)
    over = [dim for dim in dims if numbers.shape[dim] > 1]
    if over and numbers.numel() == math.prod(numbers.shape[dim] for dim in over):  # no channels are left
        return mix(follower, function, args, kwargs, outputs)
    for dim in over:
        follower.ties.tie(numbers.narrow(dim, 0, 1), numbers)
        numbers, zero = numbers.narrow(dim, 0, 1), zero.all(dim, keepdim=True)
    if outputs[0].dim() < numbers.dim():
        numbers, zero = (part.squeeze(tuple(dims)) for part in (numbers, zero))
    return [Channels(numbers, zero & (name not in NOT_TO_ZERO)) for _ in outputs]


def along(follower, function, args, kwargs, outputs):
    """Pass channels through a function along one dimension, where that does not hold them."""
    x = first(args, kwargs)
    dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
    numbers, zero = follower.channels(x)
    if not isinstance(dim, int) or numbers.shape[dim] > 1:
        return mix(follower, function, args, kwargs, outputs)
    args, kwargs = replaced(args, kwargs, lambda t: t.new_zeros([2] * t.dim()))
    return [Channels(numbers, zero & (y == 0).all().cpu()) for y in tensors_of(function(*args, **kwargs))]


def normalize(follower, function, args, kwargs, outputs):
    """Pass channels through where they are not what the norm is over."""
    bound = inspect.signature(F.normalize).bind(*args, **kwargs)
    bound.apply_defaults()
    return along(follower, function, (bound.arguments["input"],), {"dim": bound.arguments["dim"]}, outputs)


def mix(follower, function, args, kwargs, outputs):
    """Let all channels stay, because every output depends on all of them."""
    follower.stay(*tensors_of((args, kwargs)))
    return [None] * len(outputs)
