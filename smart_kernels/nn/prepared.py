"""Blocks that the products of masked layers read, prepared for all layers of a model at once."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from smart_kernels.ops.common import TRITON_DEVICES, autocast_dtype, capturing
from smart_kernels.ops.masked import GroupedBlocks, GroupedLayer

from .gates import HardGate, SoftGate
from .masked import Masked, is_shard

DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # of weights that kernels pack


class Clock:
    """How many steps all optimizers of the process have taken since it was first asked for."""

    def __init__(self):
        self.steps = 0
        self.hook = None

    def start(self) -> None:
        """Count from now on."""
        if self.hook is None:
            self.hook = register_optimizer_step_post_hook(self._count)

    def _count(self, *step) -> None:
        self.steps += 1


CLOCK = Clock()


class LayerBlocks:
    """The live blocks of one layer, and what they were made of. Copies of the layer have none.

    Attributes:
        index, packed: as ``prepared_linear`` takes them.
        weight, version, address, mask: what they are of; changed weights make them useless.
        steps: of optimizers so far; a fused one changes weights without a new version.
        captured: whether a CUDA graph makes them.
        wanted: the dtype that the last product asked for.
    """

    def __init__(self, weight: nn.Parameter, mask: Tensor, index: Tensor, packed: Tensor, captured: bool):
        self.weight = weight
        self.mask = mask
        self.index = index
        self.wanted = packed.dtype
        self.take(packed, captured)

    def take(self, packed: Tensor, captured: bool) -> None:
        """Take blocks packed of the weight as it is now; those of a CUDA graph serve the graph, which renews them."""
        self.packed = packed
        self.version = self.weight._version
        self.address = self.weight.data_ptr()
        self.steps = CLOCK.steps
        self.captured = captured

    def are_of(self, weight: nn.Parameter, mask: Tensor, dtype: torch.dtype) -> bool:
        """Return whether they are of this weight as it is now and of this mask, in this dtype.

        What is written through ``.data`` leaves no trace; a forward without gradients does not ask.
        """
        if weight is not self.weight or mask is not self.mask or self.steps != CLOCK.steps:
            return False
        if weight._version != self.version or weight.data_ptr() != self.address:
            return False
        self.wanted = dtype
        return dtype is self.packed.dtype and self.captured == capturing()

    def __deepcopy__(self, memo) -> None:
        return None

    def __reduce__(self):
        return type(None), ()


class Prepared:
    """Make what the linear layers of a model read while they are pruned, in a few launches, on a GPU.

    A layer uses it while it is of its weight and mask, and does the same work by itself otherwise, as one that cannot
    be prepared: see ``_suits``.
    """

    def __init__(self):
        self.key: list[tuple] = []
        self.layers: list[Masked] = []
        self.masks: Tensor | None = None

    def renew(self, layers: Iterable[Masked], masks: Tensor) -> None:
        """List and pack the live blocks after the masks have changed.

        Args:
            layers: all that there are; their gates hold views of ``masks``.
            masks: (n,) the masks of all of them.
        """
        layers = list(layers)
        key = [_key(layer) for layer in layers]
        if key != self.key:
            self.key = key
            self._regroup(layers, masks)
        self.masks = masks.detach()
        if self.layers:
            indices = self.group.listed(self.masks)
            captured = capturing()
            for layer, index, packed in zip(self.layers, indices, self._packed(indices), strict=True):
                weight = layer._parameters["weight"]
                layer.__dict__["blocks"] = LayerBlocks(weight, layer.gate.mask, index, packed, captured)

    def pack(self) -> None:
        """Pack the weights as they are now, for the masks of the last ``renew``."""
        blocks = [layer.__dict__.get("blocks") for layer in self.layers]
        if None in blocks:  # a layer has moved since
            self.layers = []
            self.key = []
        if self.layers:
            captured = capturing()
            for own, packed in zip(blocks, self._packed(None), strict=True):
                own.take(packed, captured)

    def _regroup(self, layers: list[Masked], masks: Tensor) -> None:
        self.layers = [layer for layer in layers if _suits(layer)]
        if self.layers:
            CLOCK.start()
        self.group = GroupedBlocks([_described(layer) for layer in self.layers], masks.device)

    def _packed(self, indices: list[Tensor] | None) -> list[Tensor]:
        first = self.layers[0]
        blocks = first.__dict__.get("blocks")
        dtype = autocast_dtype(first.raw_weight) if blocks is None else blocks.wanted
        weights = [layer._parameters["weight"] for layer in self.layers]
        return self.group.packed(weights, self.masks, dtype, indices)


def _key(layer: Masked) -> tuple:
    """Return what decides whether and how a layer is prepared, and may change."""
    weight, gate = layer._parameters["weight"], layer.gate
    kind = type(gate)
    offset = gate.mask.storage_offset() if kind in (HardGate, SoftGate) else None
    return layer, kind, offset, weight.device, weight.dtype


def _described(layer: Masked) -> GroupedLayer:
    weight, gate = layer.raw_weight, layer.gate
    tile = layer.pattern.tile(layer.shape)
    return GroupedLayer(tuple(weight.shape[:2]), tile, gate.mask.storage_offset(), gate.eps, weight.dtype)


def _suits(layer: Masked) -> bool:
    """Return whether a layer is a product on a GPU with a whole weight, one mask value a tile."""
    weight, gate = layer.raw_weight, layer._own_gate()
    if not isinstance(gate, HardGate | SoftGate) or gate.mask.dtype != torch.float32 or is_shard(weight):
        return False
    if weight.device.type not in TRITON_DEVICES or weight.dtype not in DTYPES or not weight.is_contiguous():
        return False
    return layer.is_product() and layer.index is None and layer.pattern.is_per_tile(layer.shape) and weight.numel() > 0
