"""Rules for the layers that hold channels. See ``rules.py``."""

import inspect

import torch
import torch.nn.functional as F
from torch import Tensor

from .follow_places import mix
from .operands import tensors_of
from .ties import STAYS, Channels

CONV = inspect.signature(lambda input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1: None)
TRANSPOSED = inspect.signature(
    lambda input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1: None
)


TORCH_BATCH_NORM = inspect.signature(
    lambda input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled: None
)


def linear(follower, function, args, kwargs, outputs):
    bound = inspect.signature(lambda input, weight, bias=None: None).bind(*args, **kwargs).arguments
    return _dense(follower, bound, args, kwargs, outputs, -1, (0, 1))


def conv(follower, function, args, kwargs, outputs):
    bound = CONV.bind(*args, **kwargs).arguments
    if bound.get("groups", 1) > 1:
        return _grouped(follower, bound, args, kwargs, outputs)
    return _dense(follower, bound, args, kwargs, outputs, 1, (0, 1))


def conv_transpose(follower, function, args, kwargs, outputs):
    bound = TRANSPOSED.bind(*args, **kwargs).arguments
    if bound.get("groups", 1) > 1:
        return _unknown(follower, bound["weight"], args, kwargs, outputs)
    return _dense(follower, bound, args, kwargs, outputs, 1, (1, 0))


def batch_norm(follower, function, args, kwargs, outputs):
    signature = TORCH_BATCH_NORM if function is torch.batch_norm else inspect.signature(F.batch_norm)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    names = "input", "running_mean", "running_var", "weight", "bias"
    x, mean, var, weight, bias = (bound.arguments[name] for name in names)
    found = follower.channels(x).vector(1, x.shape[1])
    if found is None or mean is None or bound.arguments["training"]:
        return mix(follower, function, args, kwargs, outputs)
    numbers, zero = found
    for tensor in (mean, var, weight, bias):
        follower.axis(tensor, 0, numbers)
    follower.normalised(x, weight)
    scale = 1 if weight is None else weight
    shift = (0 if bias is None else bias) - scale * mean * (var + bound.arguments["eps"]).rsqrt()
    dead = zero & (shift == 0).cpu()
    if weight is not None and bias is not None:
        dead = dead | ((weight == 0) & (bias == 0)).cpu()
    return [_along(numbers, dead, x.dim(), 1)]


def instance_norm(follower, function, args, kwargs, outputs):
    """Follow one that normalises each channel by itself and has nothing of its own for it."""
    x, *rest = (*args, *kwargs.values())
    found = follower.channels(x).vector(1, x.shape[1])
    if found is None or any(isinstance(t, Tensor) for t in rest):
        return mix(follower, function, args, kwargs, outputs)
    return [follower.channels(x)]


def prelu(follower, function, args, kwargs, outputs):
    """Follow one slope for all, or one per channel."""
    x, weight = inspect.signature(lambda input, weight: None).bind(*args, **kwargs).args
    channels = follower.channels(x)
    if weight.numel() > 1:
        found = channels.vector(1, x.shape[1])
        if found is None:
            return mix(follower, function, args, kwargs, outputs)
        follower.axis(weight, 0, found[0])
    return [channels]


def embedding(follower, function, args, kwargs, outputs):
    """Start new channels: the columns of the table."""
    bound = inspect.signature(F.embedding).bind(*args, **kwargs).arguments
    table = bound["weight"]
    if not follower.known(table):
        return mix(follower, function, args, kwargs, outputs)
    numbers = follower.new(table.shape[1])
    follower.axis(table, 0, torch.full((len(table),), STAYS))
    follower.axis(table, 1, numbers)
    follower.dense.add(id(table))
    follower.transposed.add(id(table))
    return [_along(numbers, (table.detach() == 0).all(0).cpu(), outputs[0].dim(), -1)]


def _dense(follower, bound, args, kwargs, outputs, dim: int, axes: tuple[int, int]) -> list[Channels | None]:
    """Follow a layer that reads all channels and writes new ones; ``axes`` of the weight: (output, input)."""
    x, weight, bias = bound["input"], bound["weight"], bound.get("bias")
    found = follower.channels(x).vector(dim, x.shape[dim])
    if found is None or not follower.known(weight) or not (bias is None or follower.known(bias)):
        return _unknown(follower, weight, args, kwargs, outputs)
    numbers, zero = found
    used = (weight.detach() != 0).transpose(0, axes[0]).flatten(2).any(-1) if weight.dim() > 2 else weight.detach() != 0
    used = used.cpu() & ~zero
    follower.read.update(numbers[used.any(0)].tolist())
    new = follower.new(len(used))
    follower.axis(weight, axes[0], new)
    follower.axis(weight, axes[1], numbers)
    follower.axis(bias, 0, new)
    follower.dense.add(id(weight))
    if axes == (1, 0):
        follower.transposed.add(id(weight))
    follower.made(outputs[0], weight)
    return [_along(new, _silent(used, bias), outputs[0].dim(), dim)]


def _grouped(follower, bound, args, kwargs, outputs) -> list[Channels | None]:
    """Tie the inputs and outputs of each group; a depthwise convolution has one of each."""
    x, weight, bias, groups = bound["input"], bound["weight"], bound.get("bias"), bound["groups"]
    found = follower.channels(x).vector(1, x.shape[1])
    if found is None or not follower.known(weight):
        return _unknown(follower, weight, args, kwargs, outputs)
    numbers, zero = (part.view(groups, -1) for part in found)
    follower.ties.tie(numbers, numbers[:, :1])
    rows = len(weight) // groups
    own = numbers[:, 0].repeat_interleave(rows)
    used = (weight.detach() != 0).flatten(2).any(-1).cpu() & ~zero.repeat_interleave(rows, 0)
    follower.axis(weight, 0, own)
    follower.axis(bias, 0, own)
    follower.grouped.add(id(weight))
    follower.made(outputs[0], weight)
    return [_along(own, _silent(used, bias), outputs[0].dim(), 1)]


def _unknown(follower, weight: Tensor, args, kwargs, outputs) -> list[None]:
    """Leave alone a layer whose weight is computed, or that reads more than channels."""
    if follower.known(weight):
        for dim, size in enumerate(weight.shape[:2]):
            follower.axis(weight, dim, torch.zeros(size, dtype=torch.int64))
    follower.stay(*(t for t in tensors_of((args, kwargs)) if not follower.known(t)))
    return [None] * len(outputs)


def _silent(used: Tensor, bias: Tensor | None) -> Tensor:
    """Return (N,) bool, rows that give exactly 0."""
    return ~used.any(1) if bias is None else ~used.any(1) & (bias.detach() == 0).cpu()


def _along(numbers: Tensor, zero: Tensor, rank: int, dim: int) -> Channels:
    size = [1] * rank
    size[dim] = -1
    return Channels(numbers.view(size), zero.view(size))
