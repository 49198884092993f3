"""BatchNorm behind a channel-pruned layer: it carries the mask, on gamma and beta.

A soft mask in front of a BatchNorm is divided out by the normalisation, so it has to act behind it.
"""

from functools import cache

from torch import Tensor, nn

from .following import Following
from .masked import Masked, is_shard


class MaskedBatchNorm(Following):
    """Base of the masked BatchNorms: ``weight`` and ``bias`` read as masked."""

    def __reduce_ex__(self, protocol):
        # its class is made when it is needed, so a pickle names the plain one
        return _empty, (self.dense_class,), self.__getstate__()

    def follow(self, layer: Masked) -> None:
        """Carry the channel mask of ``layer``, which nothing else reads."""
        self.__dict__["layer"] = layer  # not a submodule: it has its own place in the model
        layer.__dict__["batchnorm"] = self

    def detach(self) -> nn.Module:
        """Go back to the plain class, with gamma and beta of pruned channels exactly 0."""
        for name, masked in (("weight", self.weight), ("bias", self.bias)):
            if masked is not None:
                self._parameters[name].data.copy_(masked.detach())
        self.unfollow()
        self.__class__ = self.dense_class
        return self

    @property
    def weight(self) -> Tensor | None:
        return self._masked("weight")

    @property
    def bias(self) -> Tensor | None:
        return self._masked("bias")

    def _masked(self, name: str) -> Tensor | None:
        raw = self._parameters[name]
        mask = None if raw is None or is_shard(raw) else self._mask()
        return raw if mask is None else (raw * mask).to(raw.dtype)


@cache
def masked_batchnorm(cls: type[nn.Module]) -> type[MaskedBatchNorm]:
    """Return the masked class of a BatchNorm class, or of a subclass that reads ``weight`` and ``bias``."""
    return type(f"Masked{cls.__name__}", (MaskedBatchNorm, cls), {"dense_class": cls, "__module__": __name__})


def _empty(cls: type[nn.Module]) -> MaskedBatchNorm:
    masked = masked_batchnorm(cls)
    return masked.__new__(masked)


MaskedBatchNorm1d = masked_batchnorm(nn.BatchNorm1d)
MaskedBatchNorm2d = masked_batchnorm(nn.BatchNorm2d)
