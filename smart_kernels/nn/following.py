"""Norms that carry the channel mask of layers elsewhere in the model."""

from torch import Tensor, nn

from .masked import Masked, indexed


class Following:
    """Base of the norms that share channel scores with a masked layer; their class is that of the norm, swapped."""

    dense_class: type[nn.Module]

    def follow_scores(self, layer: Masked, index: Tensor) -> None:
        """Carry the mask of the scores that ``layer`` shares; ``index`` (N,) says which, -1 for none."""
        self.__dict__["layer"] = layer  # not a submodule: it has its own place in the model
        self._buffers["index"] = index.to(layer.raw_weight.device)
        self._non_persistent_buffers_set.add("index")

    def unfollow(self) -> None:
        """Let go of the layer."""
        del self.__dict__["layer"]
        self._buffers.pop("index", None)
        self._non_persistent_buffers_set.discard("index")

    @property
    def index(self) -> Tensor | None:
        return self._buffers.get("index")

    def _mask(self) -> Tensor | None:
        """Return (N,) mask of the channels; None where no pruner has set one."""
        if self.index is None or self.layer.gate is None:
            return self.layer.channel_mask()
        return indexed(self.layer.gate.mask[:, 0], self.index)
