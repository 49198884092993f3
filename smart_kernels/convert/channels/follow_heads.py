"""Rules for the heads of an attention. See ``rules.py``."""

import inspect

import torch
from torch import Tensor

from .follow_moves import move, shape
from .follow_places import mix
from .follow_values import product
from .operands import first, tensors_of
from .ties import Channels

ATTENTION = inspect.signature(
    lambda query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False: None
)


def cut_into_heads(follower, function, args, kwargs, outputs):
    """Tie all channels of a head, and the same head of q, k and v where one layer makes all three."""
    before = follower.channels(first(args, kwargs)).numbers
    moved = move(follower, function, args, kwargs, outputs)
    if not moved[0].numbers.flatten().equal(before.flatten()):
        return shape(follower, function, args, kwargs, outputs)
    return [_one_per_head(follower, moved[0])]


def matmul(follower, function, args, kwargs, outputs):
    """Multiply head by head: the same head of both factors lives and dies with that of the result."""
    factors = tensors_of((args, kwargs))
    if all(_by_head(follower.channels(t)) for t in factors):
        return product(follower, function, args, kwargs, outputs)
    return mix(follower, function, args, kwargs, outputs)


def attention(follower, function, args, kwargs, outputs):
    """Tie the same head of query, key and value; the result is zero where the value is."""
    bound = ATTENTION.bind(*args, **kwargs).arguments
    query, *others = (bound[name] for name in ("query", "key", "value"))
    if not all(_by_head(follower.channels(t)) for t in (query, *others)):
        return mix(follower, function, args, kwargs, outputs)
    numbers = follower.channels(query).expand((*query.shape[:-2], 1, 1)).numbers
    key, value = (_for_each(follower.channels(t), t, numbers.shape) for t in others)
    follower.ties.tie(numbers, key.numbers)
    follower.ties.tie(numbers, value.numbers)
    _meet_mask(follower, bound.get("attn_mask"), numbers)
    return [Channels.thin(value.numbers, value.zero)]


def _one_per_head(follower, channels: Channels) -> Channels:
    """Keep of the dimensions that a vector was cut into the one before the last: the heads."""
    varying = [dim for dim, size in enumerate(channels.numbers.shape) if size > 1]
    numbers, zero = channels
    for dim in [*varying[-1:], *varying[:-2]] if len(varying) > 1 else []:
        first = numbers.narrow(dim, 0, 1)
        follower.ties.tie(first, numbers)
        numbers, zero = first, zero.all(dim, keepdim=True)
    return Channels(numbers, zero)


def _by_head(channels: Channels) -> bool:
    """Return whether the matrices that are multiplied hold nothing that differs inside of a head."""
    shape = channels.numbers.shape
    return len(shape) > 2 and shape[-1] == shape[-2] == 1


def _for_each(channels: Channels, tensor: Tensor, shape: torch.Size) -> Channels:
    """Return the channels of keys or values for each head of the queries, of which several may share one."""
    heads = tensor.shape[-3]
    full = channels.expand((*tensor.shape[:-2], 1, 1))
    return Channels(*(part.repeat_interleave(shape[-3] // heads, -3) for part in full))


def _meet_mask(follower, mask: Tensor | None, numbers: Tensor) -> None:
    """Tie a mask of its own for each head, or let it stay."""
    if mask is None:
        return
    found = follower.channels(mask).numbers
    if found.dim() > 2 and found.shape[-3] == numbers.shape[-3] and found.shape[-1] == found.shape[-2] == 1:
        follower.ties.tie(found, numbers)
    else:
        follower.stay(mask)
