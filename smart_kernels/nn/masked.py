"""Layers while they are pruned: the weight read through its mask."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_kernels.ops import masked_linear
from smart_kernels.ops.common import autocast
from smart_kernels.ops.masked import prepared_linear
from smart_kernels.patterns import Pattern, WeightShape

from .gates import Gate, GroupGate, SoftGate
from .held import Held, moved_scores


def indexed(mask: Tensor, index: Tensor) -> Tensor:
    """Return ``mask[index]``; 1 where the index is -1."""
    return torch.cat([mask, torch.ones_like(mask[:1])])[index.to(mask.device)]


def is_shard(parameter: nn.Parameter) -> bool:
    """Return whether ``fully_shard`` has cut a Parameter; inside of forward it is whole again.

    Until then a masked layer or BatchNorm shows the Parameter itself, which ``fully_shard`` looks up by its name.
    """
    return hasattr(parameter, "placements")


class Masked:
    """Base of ``MaskedLinear`` and ``MaskedConv2d``.

    ``weight`` reads as the masked weight, differentiable in the raw weight and the scores, because
    ``nn.MultiheadAttention`` and the fast path of ``nn.TransformerEncoderLayer`` read it without calling ``forward``.
    The raw Parameter keeps its place and name in ``state_dict``.

    Attributes:
        pattern: what is kept or pruned together.
        scores: float32 Parameter of ``pattern.scores_shape(shape)``; shared by layers that share a weight. Of coupled
            channels (n, 1), shared by all layers that they run through.
        index: (N,) int64, the score of each channel of a coupled layer, -1 for one that stays; None elsewhere.
        gate: None (dense), ``SoftGate`` or ``GroupGate`` (search), or ``HardGate`` (afterwards).
        blocks: what was prepared of weight and mask, see ``Prepared``; used as long as it is of both as they are.
        batchnorm: for patterns of whole channels, the BatchNorm that follows and carries the soft mask, or None.
    """

    dense_class: type[nn.Module]

    def attach(self, pattern: Pattern, scores: nn.Parameter | None = None, index: Tensor | None = None) -> None:
        """Take up a pattern; ``scores`` are given when another layer shares the weight, ``index`` when channels are."""
        self.pattern = pattern
        if index is not None:
            self._buffers["index"] = index.to(self.raw_weight.device)
            self._non_persistent_buffers_set.add("index")
        if scores is None:
            scores = nn.Parameter(pattern.importance(self.matrix()), self.raw_weight.requires_grad)
        self.scores = scores
        self.__dict__["held"] = Held()

    def detach(self) -> nn.Module:
        """Go back to the plain class, with the pruned weights exactly 0. Needs a hard (or no) gate."""
        self.check_hard()
        with torch.no_grad():
            self.raw_weight.copy_(self.weight)
            if self.raw_bias is not None:
                self.raw_bias.copy_(self.bias)
        del self._parameters["scores"], self.pattern
        del self.__dict__["held"]
        self.__dict__.pop("blocks", None)
        self._buffers.pop("index", None)
        self._non_persistent_buffers_set.discard("index")
        self.__dict__.pop("batchnorm", None)
        self.__class__ = self.dense_class
        return self

    def check_hard(self) -> None:
        """Raise ValueError where the mask is soft, so that the layer cannot become plain."""
        if isinstance(self.gate, SoftGate | GroupGate):
            raise ValueError(
                "the mask must be hard before a layer becomes plain, got a soft one; call harden() of the pruner first "
                "(a copy has none: copy the model after harden())"
            )

    @property
    def gate(self) -> Gate | None:
        held = self.__dict__["held"]
        return held.gate if held.source is None else held.now(self.scores)

    @gate.setter
    def gate(self, gate: Gate | None) -> None:
        self.carry(gate)

    def carry(self, gate: Gate | None) -> None:
        """Set ``gate``, past ``nn.Module``, which looks at each attribute that is set."""
        self.__dict__["held"].set(gate)

    @property
    def raw_weight(self) -> nn.Parameter:
        """Return the Parameter behind ``weight``; ValueError where somebody has taken it away."""
        try:
            return self._parameters["weight"]
        except KeyError:
            others = "a parametrization or a norm: do that after finalize(), or before the pruner is made"
            raise ValueError(f"a masked layer must keep its Parameter weight, got one computed by {others}") from None

    @property
    def raw_bias(self) -> nn.Parameter | None:
        return self._parameters["bias"]

    @property
    def index(self) -> Tensor | None:
        return self._buffers.get("index")

    @property
    def weight(self) -> Tensor:
        gate = self._own_gate()
        if gate is None or is_shard(self.raw_weight):
            return self.raw_weight
        if isinstance(gate, GroupGate):
            return self._from_matrix(gate.weight(self.matrix(), self.scores_for(gate), self.pattern))
        values = self.per_tile(gate.mask)
        live = torch.where(values <= gate.eps, 0, values)
        mask = self.pattern.expand(live, self.shape)
        # a pruned weight is not read, even if NaN
        return self._from_matrix(torch.where(mask == 0, 0, self.matrix()) * mask).to(self.raw_weight.dtype)

    @property
    def bias(self) -> Tensor | None:
        gate = self._own_gate()
        if self.raw_bias is None or gate is None or not self.pattern.whole_channels or is_shard(self.raw_bias):
            return self.raw_bias
        return (self.raw_bias * self.channel_mask()).to(self.raw_bias.dtype)

    @property
    def shape(self) -> WeightShape:
        return WeightShape(*self.matrix().shape)

    def channel_mask(self) -> Tensor | None:
        """Return (N,) mask of the output channels for the BatchNorm that follows; for patterns of whole channels."""
        return None if self.gate is None else self.per_tile(self.gate.mask)[:, 0]

    def scores_for(self, gate: GroupGate) -> Tensor:
        """Return the scores that ``gate`` makes mask values from."""
        return self.scores if gate.scores is None else gate.scores

    def per_score(self, per_tile: Tensor) -> Tensor:
        """Sum (rows, cols) values per tile of this layer into values per score."""
        if self.index is None:
            return per_tile
        scored = self.index.to(per_tile.device) >= 0
        index = self.index.to(per_tile.device)[scored]
        return per_tile.new_zeros(self.scores.shape).index_add_(0, index, per_tile[scored])

    def per_tile(self, per_score: Tensor) -> Tensor:
        """Turn (rows, cols) mask values per score into values per tile; 1 where a channel has no score."""
        if self.index is None:
            return per_score
        return indexed(per_score, self.index)

    def _own_gate(self) -> Gate | None:
        # a soft mask in front of a BatchNorm would be divided out; the BatchNorm carries it instead
        followed = self.__dict__.get("batchnorm") is not None
        return None if followed and isinstance(self.gate, SoftGate) else self.gate

    def _linear(self, x: Tensor) -> Tensor:
        """Map (..., K) to (..., N) by the fused ops; one tap."""
        gate = self._own_gate()
        pattern = self.pattern
        shape = self.shape
        tile = pattern.tile(shape)
        if isinstance(gate, GroupGate):  # nothing to leave out: the weight is masked once, the product is dense
            return F.linear(x, gate.weight(self.matrix(), self.scores_for(gate), pattern).flatten(1), self.bias)
        blocks = self.__dict__.get("blocks")
        if blocks is not None and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            x = autocast(x)
            if blocks.are_of(self.raw_weight, gate.mask, x.dtype):
                settings = {"tile": tile, "eps": gate.eps}
                return prepared_linear(x, self._flat(), gate.mask, self.bias, blocks.packed, blocks.index, **settings)
        mask = pattern.tile_values(self.per_tile(gate.mask), shape)
        return masked_linear(x, self._flat(), mask, self.bias, tile=tile, eps=gate.eps)

    def _flat(self) -> Tensor:
        return self.raw_weight.flatten(1)

    def _apply(self, fn, recurse=True):
        scores = self._parameters.pop("scores")
        try:
            super()._apply(fn, recurse)
            scores = moved_scores(scores, fn)
        finally:
            self._parameters["scores"] = scores
        self.__dict__["held"].map(fn)
        self.__dict__.pop("blocks", None)
        return self

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, pattern={self.pattern}"
