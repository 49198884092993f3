"""The rule for norms over live channels. See ``rules.py``."""

import torch

from .ties import Channels


def live_norm(follower, function, args, kwargs, outputs):
    """Follow a norm that reads its live channels, all of them, and is 0 in the others."""
    x, weight, bias, mask, _ = args
    channels = follower.channels(x)
    if channels.numbers.shape[-1] == 1:  # it is over what is inside of a head, or stays
        return [Channels(channels.numbers, channels.zero & _starts_at_zero(bias))]
    numbers = channels.numbers
    for dim in range(x.dim() - 1):  # tokens of several origins, say: what the norm has for a channel, it has for all
        follower.ties.tie(numbers.narrow(dim, 0, 1), numbers)
        numbers = numbers.narrow(dim, 0, 1)
    numbers = numbers.flatten()
    for tensor in (weight, bias, mask):
        follower.axis(tensor, 0, numbers)
    live = torch.ones(len(numbers), dtype=torch.bool) if mask is None else (mask.detach() != 0).cpu()
    follower.read.update(numbers[live].tolist())
    size = [1] * (x.dim() - 1) + [-1]
    return [Channels(numbers.view(size), ~live.view(size))]


def _starts_at_zero(bias) -> bool:
    return bias is None or not bias.detach().any()
