import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_kernels.ops.block_sparse import FEW_ROWS, block_sparse_conv2d, block_sparse_linear, check_indices
from smart_kernels.ops.common import TRITON_DEVICES
from smart_kernels.reference.common import finish
from smart_kernels.shapes import tiles

from .base import Candidate, Format
from .indexed import Indexed, rows_of
from .prepared import eager_inference, plain_operators
from .tiling import blocks_of, check_tile
from .union import Union, check_union, sorted_linear, unite, unite_sorted, worth_uniting
from .zeros import Zeros


class BSR(Indexed, Format):
    """Block compressed sparse rows, with the names of ``torch.sparse_bsr_tensor``. Trains; the saved form.

    Block columns count through the taps: column ``tap * ceil(C / tile_c) + i`` is tile ``i`` of that tap.

    Args:
        union: rows of tiles that inference reads as one where x has many rows; see ``formats/union.py``.
        sort: whether rows that keep the same columns are united, and not those that lie side by side.

    Attributes:
        values: (nnz, tile_n, tile_c) Parameter, zeros beyond the edge of the weight.
        crow_indices: (ceil(N / tile_n) + 1,) int32, where each block row starts.
        col_indices: (nnz,) int32, ascending in each block row.
    """

    name = "bsr"
    saves = ("values", "crow_indices", "col_indices")
    union = 1
    sort = False

    def __init__(
        self, values: Tensor, crow_indices: Tensor, col_indices: Tensor, shape: tuple[int, int], taps: int = 1
    ):
        super().__init__(shape, taps)
        self.values = values if isinstance(values, nn.Parameter) else nn.Parameter(values)
        self.register_buffer("crow_indices", crow_indices)
        self.register_buffer("col_indices", col_indices)
        self.register_buffer("index", None, persistent=False)
        self._check(crow_indices, col_indices)
        self._remember(None)

    @classmethod
    def from_saved(cls, tensors, shape, taps):
        if tensors[0].dim() != 3:
            raise ValueError(f"values must be (blocks, tile_n, tile_c), got {tuple(tensors[0].shape)}")
        check_tile(tuple(tensors[0].shape[1:]), shape, taps)
        return cls(*tensors, shape, taps)

    @classmethod
    def from_dense(cls, weight, tile, *, taps=1, keep=None, union=1, sort=False):
        check_union(union)
        check_tile(tile, weight.shape, taps)
        blocks = blocks_of(weight.detach(), tile, taps)
        live = blocks.ne(0) if keep is None else blocks_of(keep.to(torch.uint8), tile, taps).bool()
        live = live.any(-1).any(-1)
        crow = F.pad(live.sum(1).cumsum(0), (1, 0))
        stored = cls(blocks[live], crow.int(), live.nonzero()[:, 1].int(), weight.shape, taps)
        stored.union, stored.sort = union, sort
        return stored

    @classmethod
    def from_zeros(cls, zeros, union=1, sort=False):
        return BSR.of(zeros).united(union, sort)

    @classmethod
    def of(cls, zeros: Zeros) -> "BSR":
        """Return the weight in its tiles, made once: all formats of tiles read the same tensors.

        Raises:
            ValueError: the zeros are not made of tiles.
        """
        if zeros.tile is None:
            raise ValueError(f"{cls.name} needs a weight of which whole tiles are kept, got another")
        if BSR not in zeros.made:
            zeros.made[BSR] = BSR.from_dense(zeros.weight, zeros.tile, taps=zeros.taps)
        return zeros.made[BSR]

    @classmethod
    def candidates(cls, zeros):
        """Yield also rows of tiles united, which only tensor cores gain from."""
        if zeros.tile is None or not zeros.any():
            return
        yield Candidate(cls.name, {})
        for union in cls._unions(zeros):
            yield Candidate(f"{cls.name} {union}", {"union": union.count} | ({"sort": True} if union.sort else {}))

    @classmethod
    def remark(cls, zeros):
        """Say how many more tiles the unions read."""
        unions = cls._unions(zeros) if zeros.tile is not None and zeros.any() else ()
        return ", ".join(f"{union} reads {union.factor:.2f} times the tiles" for union in unions)

    @classmethod
    def _unions(cls, zeros: Zeros) -> tuple[Union, ...]:
        if worth_uniting not in zeros.made:
            indices = BSR.of(zeros).crow_indices, BSR.of(zeros).col_indices
            zeros.made[worth_uniting] = worth_uniting(*indices, zeros.tile) if zeros.weight.is_cuda else ()
        return zeros.made[worth_uniting]

    def united(self, union: int, sort: bool = False) -> "BSR":
        """Return a format of the same stored tensors that reads ``union`` rows of tiles as one."""
        check_union(union)
        other = BSR(self.values, self.crow_indices, self.col_indices, self.shape, self.taps)
        other.union, other.sort = union, sort
        return other

    def options(self):
        options = {"union": self.union} if self.union > 1 else {}
        return options | ({"sort": True} if self.sort else {})

    @property
    def tile(self) -> tuple[int, int]:
        """Return (tile_n, tile_c)."""
        return self.values.shape[1], self.values.shape[2]

    @property
    def grid(self) -> tuple[int, int, int]:
        """Return block rows, taps, block columns per tap."""
        rows, cols = tiles.grid((self.shape[0], self.shape[1] // self.taps), self.tile)
        return rows, self.taps, cols

    def blocks(self) -> Tensor:
        """Return (block rows, taps, block columns per tap, tile_n, tile_c), dead blocks 0; differentiable."""
        rows, taps, cols = self.grid
        nnz = self.values.shape[0]
        index = rows_of(self.crow_indices, nnz) * (taps * cols) + self.col_indices
        blocks = self.values.new_zeros(rows * taps * cols, *self.tile).index_copy(0, index, self.values)
        return blocks.view(rows, taps, cols, *self.tile)

    def to_dense(self):
        full = self.blocks().permute(0, 3, 1, 2, 4).flatten(3).flatten(0, 1)  # (rows * tile_n, taps, cols * tile_c)
        return full[: self.shape[0], :, : self.shape[1] // self.taps].flatten(1)

    def linear(self, x, bias=None, activation=None, residual=None):
        if plain_operators():
            return finish(F.linear(x, self.to_dense(), bias), None, residual, activation)
        stored = self.values, self.crow_indices, self.col_indices
        index = self._index()
        # fewer rows cost what is read of W; not asked of a dynamic batch, which the answer would limit
        if self.union > 1 and eager_inference(x, self.values, bias) and x.numel() > FEW_ROWS * self.shape[1]:
            if self.sort:
                ending = residual, activation
                return sorted_linear(x, bias, self.prepared(self._unite), self.grid[0] * self.tile[0], *ending)
            stored = self.prepared(self._unite)
            index = None
        ending = {"activation": activation, "residual": residual}
        return block_sparse_linear(x, *stored, bias, out_features=self.shape[0], index=index, **ending)

    def conv2d(self, x, bias, conv, activation=None, residual=None):
        # without a kernel the operator makes the weight dense as well, but rounds fewer sums: slower
        if conv.pointwise or x.dim() != 4 or x.device.type not in TRITON_DEVICES:
            y = super().conv2d(x, bias, conv)
            return y if activation is residual is None else finish(y, None, residual, activation)
        stored = self.values, self.crow_indices, self.col_indices
        shape = {**conv.named, "out_channels": self.shape[0]}
        ending = {"activation": activation, "residual": residual}
        return block_sparse_conv2d(x, *stored, bias, **shape, index=self._index(conv), **ending)

    def fuses(self):
        return self.name == BSR.name and self.values.device.type in TRITON_DEVICES

    def _unite(self) -> tuple[Tensor, ...]:
        stored = self.values.detach(), self.crow_indices, self.col_indices
        return unite_sorted(*stored, self.union, self.shape[0]) if self.sort else unite(*stored, self.union)

    def _check(self, crow: Tensor, col: Tensor) -> None:
        rows, taps, cols = self.grid
        if col.shape != self.values.shape[:1]:
            raise ValueError(
                f"col_indices must be one per block, got {tuple(col.shape)} for {self.values.shape[0]} blocks"
            )
        check_indices(crow, col, (rows, taps * cols))

    def _load_from_state_dict(self, state_dict, prefix, *args):
        crow = state_dict.get(f"{prefix}crow_indices")
        col = state_dict.get(f"{prefix}col_indices")
        if crow is not None and col is not None:
            self._check(crow, col)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._remember(self._conv)

    def extra_repr(self) -> str:
        tile_n, tile_c = self.tile
        return f"{super().extra_repr()}, {self.values.shape[0]} tiles of {tile_n}x{tile_c}"
