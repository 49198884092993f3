"""List and pack the live blocks of many layers, in two launches for layers cut alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.masked.grouped import FIELDS, group_lists_kernel, group_pack_kernel
from smart_kernels.ops.common.axis import Axis
from smart_kernels.ops.common.launch import ALIGNMENT, TENSOR, Launch
from smart_kernels.ops.common.library import on_device

from .live_blocks import CHUNK, TileMask
from .prepared import index_sizes


@dataclass(frozen=True)
class GroupedLayer:
    """A layer as the grouped launches see it.

    Attributes:
        shape: (N, K) of its weight.
        tile: (tile_n, tile_k), what one mask value covers.
        first: where its mask begins among those of all layers.
        eps: tiles with mask <= eps are dead.
        dtype: of its weight.
    """

    shape: tuple[int, int]
    tile: tuple[int, int]
    first: int
    eps: float
    dtype: torch.dtype

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Return how the weight is cut, as ``masked_linear`` cuts it."""
        return TileMask(torch.empty(0, device="meta"), self.tile, self.eps).axes(self.shape)


class GroupedBlocks:
    """Lists and packed blocks of some layers on one device, for as long as their shapes stay.

    Args:
        layers: fp32, fp16 or bf16, none of them empty.
        device: of masks and weights.
    """

    def __init__(self, layers: Sequence[GroupedLayer], device: torch.device):
        alike: dict[tuple, list[int]] = {}
        for i, layer in enumerate(layers):
            n, k = layer.axes
            key = n.block, n.tiles_per_block, k.block, k.tiles_per_block, layer.dtype
            alike.setdefault(key, []).append(i)
        self.parts = [(indices, _Alike([layers[i] for i in indices], device)) for indices in alike.values()]

    def listed(self, masks: Tensor) -> list[Tensor]:
        """Return the index of every layer, from the masks of all layers, fp32, one behind the other.

        An index is what ``prepared_linear`` takes; ``packed`` completes it.
        """
        return self._gathered(lambda alike, _: alike.listed(masks))

    def packed(
        self, weights: Sequence[Tensor], masks: Tensor, dtype: torch.dtype, indices: Sequence[Tensor] | None
    ) -> list[Tensor]:
        """Return the live blocks of ``weight * mask`` of every layer in a dtype, each in the slot that its index names.

        Args:
            weights: (N, K), contiguous, of dtype and shape that the layers have.
            masks: as in ``listed``.
            dtype: of the products.
            indices: just returned by ``listed``: their rows are put in order; None for those of an earlier call.
        """

        def part(alike: "_Alike", places: list[int]) -> Sequence[Tensor]:
            index = None if indices is None else indices[places[0]]
            return alike.packed([weights[i] for i in places], masks, dtype, index)

        return self._gathered(part)

    def _gathered(self, make: Callable) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        for places, alike in self.parts:
            found |= zip(places, make(alike, places), strict=True)
        return [found[i] for i in range(len(found))]


class _Alike:
    """Layers whose launches are one: equal blocks, tiles per block and dtype."""

    def __init__(self, layers: list[GroupedLayer], device: torch.device):
        self.layers = layers
        self.device = device
        self.axes = [layer.axes for layer in layers]
        self.eps = torch.tensor([layer.eps for layer in layers], dtype=torch.float32, device=device)
        self.indices = [sum(index_sizes(n, k)) for n, k in self.axes]
        self.blocks = [(n.blocks * k.blocks, n.block, k.block) for n, k in self.axes]
        lines = [n.blocks + k.blocks for n, k in self.axes]
        slots = [count for count, _, _ in self.blocks]
        size = self.blocks[0][1] * self.blocks[0][2]
        begins = [_before(self.indices), [size * before for before in _before(slots)], _before(lines), _before(slots)]
        self.rows = [_row(*each) for each in zip(layers, self.axes, *begins, strict=True)]
        self.lines, self.slots = (_owners(counts, device) for counts in (lines, slots))
        self.packing: dict[tuple, Launch] = {}
        self.addresses: list[int] = []
        self._point([0] * len(layers))
        self.listing = self._listing()

    def _point(self, addresses: list[int]) -> None:
        """Write into the table where the weights lie."""
        if addresses != self.addresses:
            self.addresses = addresses
            rows = [[address, *row] for address, row in zip(addresses, self.rows, strict=True)]
            self.table = torch.tensor(rows, device=self.device)
            rows = [layer.shape[1] * layer.dtype.itemsize for layer in self.layers]
            self.wide = not any(each % ALIGNMENT for each in (*addresses, *rows))

    def listed(self, masks: Tensor) -> Sequence[Tensor]:
        index = torch.empty(sum(self.indices), dtype=torch.int32, device=self.device)
        on_device(self.listing)(masks, self.eps, self.table, self.lines, index)
        return index.split(self.indices)

    def packed(self, weights: list[Tensor], masks: Tensor, dtype: torch.dtype, index: Tensor | None) -> list[Tensor]:
        self._point(list(map(Tensor.data_ptr, weights)))
        counts = [count for count, _, _ in self.blocks]
        packed = torch.empty(sum(counts), *self.blocks[0][1:], dtype=dtype, device=self.device)
        key = dtype, self.wide, index is None
        if key not in self.packing:
            self.packing[key] = self._packing(order=index is not None)
        lists = self.lines if index is None else index  # without lines to put in order nothing is read there
        on_device(self.packing[key])(weights[0], masks, self.eps, self.table, self.lines, self.slots, lists, packed)
        return list(packed.split(counts))

    def _listing(self) -> Launch:
        n, k = self.axes[0]
        most = max(max(n.blocks, k.blocks) for n, k in self.axes)
        chunk = max(1, min(CHUNK // (n.tiles_per_block * k.tiles_per_block), triton.next_power_of_2(most)))
        return Launch(group_lists_kernel, (len(self.lines),), *[TENSOR] * 5, **self._cut(), CHUNK=chunk)

    def _packing(self, order: bool) -> Launch:
        lines = len(self.lines) if order else 0
        most = max(max(n.blocks, k.blocks) for n, k in self.axes)
        return Launch(
            group_pack_kernel, (lines + len(self.slots),), *[TENSOR] * 8, lines,
            WIDE=self.wide, **self._cut(), LINES=min(1024, triton.next_power_of_2(most)),
        )  # fmt: skip

    def _cut(self) -> dict[str, int]:
        n, k = self.axes[0]
        return {"TILES_N": n.tiles_per_block, "BLOCK_N": n.block, "TILES_K": k.tiles_per_block, "BLOCK_K": k.block}


def _row(layer: GroupedLayer, axes: tuple[Axis, Axis], index: int, packed: int, line: int, block: int) -> list[int]:
    """Return the row of the table without the address of the weight; see ``kernels/masked/grouped.py``."""
    sizes = [value for axis in axes for value in (axis.size, axis.tile, axis.stride, axis.parts)]
    row = [layer.first, index, packed, *sizes, *(axis.blocks for axis in axes), line, block]
    if len(row) + 1 != FIELDS.value:
        raise RuntimeError(f"a row of the table must have {FIELDS.value} entries, got {len(row) + 1}")
    return row


def _before(counts: Sequence[int]) -> list[int]:
    """Return for each count the sum of those before it."""
    return [0, *accumulate(counts)][:-1]


def _owners(counts: Sequence[int], device: torch.device) -> Tensor:
    """Return for each of sum(counts) programs whose it is, int32."""
    owners = torch.arange(len(counts), dtype=torch.int32)
    return owners.repeat_interleave(torch.tensor(counts)).to(device)
