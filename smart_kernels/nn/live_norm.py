"""LayerNorms and RMSNorms whose channels are pruned: they are over the live channels alone.

Zeros count in a mean and in a deviation, so a norm over all channels, some of them 0, is not the norm of the smaller
model. This one is: what it computes with a hard mask, the plain class computes after the dead channels are cut out.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from .following import Following


class NormKind(NamedTuple):
    """What a norm computes.

    Attributes:
        centred: the mean is subtracted, as LayerNorm does.
        eps: added to the variance.
        shift: added to the weight; 1 in Gemma.
    """

    centred: bool
    eps: float
    shift: float = 0.0


class LiveNorm(Following):
    """Base of the norms over live channels; ``live`` (N,) bool after the pruning, None where all are.

    Channels that are dead are not read, and come out as 0.
    """

    def attach(self, kind: NormKind) -> None:
        """Become a norm of this kind, with all channels live."""
        self.__dict__["kind"] = kind

    def detach(self) -> nn.Module:
        """Let go of the masked layer, whose mask is hard, and remember which channels are live."""
        mask = self._mask()
        self.unfollow()
        if mask is not None:
            self.keep_live(mask.detach() != 0)
        return self.settle()

    def keep_live(self, live: Tensor) -> None:
        """Set which channels are live, (N,) bool."""
        self._buffers["live"] = live
        self._non_persistent_buffers_set.add("live")

    def settle(self) -> nn.Module:
        """Go back to the plain class where that computes the same: it follows no layer, and all channels are live."""
        if "layer" not in self.__dict__ and (self.live is None or bool(self.live.all())):
            self._buffers.pop("live", None)
            self._non_persistent_buffers_set.discard("live")
            del self.__dict__["kind"]
            self.__class__ = self.dense_class
        return self

    @property
    def live(self) -> Tensor | None:
        return self._buffers.get("live")

    def forward(self, *args, **kwargs) -> Tensor:
        (x,) = (*args, *kwargs.values())
        mask = self._mask() if "layer" in self.__dict__ else self.live
        return live_norm(x, self.weight, self._parameters.get("bias"), mask, self.kind)

    def __reduce_ex__(self, protocol):
        # its class is made when it is needed, so a pickle names the plain one
        return _empty, (self.dense_class,), self.__getstate__()


def live_norm(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, kind: NormKind) -> Tensor:
    """Normalise x over its last dimension, each channel counted as often as its mask says.

    Args:
        x: (..., N).
        weight, bias: (N,); no bias for None.
        mask: (N,), from 0 to 1; None for all 1. With a hard mask, the result is that of the norm over the live
            channels, and 0 in the others.
        kind: which norm.

    Returns:
        (..., N) in the wider dtype of x and weight; differentiable in all tensors.
    """
    tensors = (x, weight, bias, mask)
    if has_torch_function(tensors):
        return handle_torch_function(live_norm, tensors, *tensors, kind)
    dtype = torch.promote_types(x.dtype, weight.dtype)
    exact = torch.promote_types(dtype, torch.float32)
    mask = torch.ones_like(weight, dtype=exact) if mask is None else mask.to(exact)
    x = torch.where(mask == 0, 0, x.to(exact))  # what is dead is not read, even if it is NaN
    total = mask.sum().clamp(min=1)
    if kind.centred:
        x = x - (mask * x).sum(-1, keepdim=True) / total
    variance = (mask * x * x).sum(-1, keepdim=True) / total
    y = x * (variance + kind.eps).rsqrt() * (weight.to(exact) + kind.shift)
    return (mask * (y if bias is None else y + bias.to(exact))).to(dtype)


@cache
def live_norm_class(cls: type[nn.Module]) -> type[LiveNorm]:
    """Return the class of norms over live channels for the class of a norm."""
    return type(f"Live{cls.__name__}", (LiveNorm, cls), {"dense_class": cls, "__module__": __name__})


def _empty(cls: type[nn.Module]) -> LiveNorm:
    live = live_norm_class(cls)
    return live.__new__(live)
