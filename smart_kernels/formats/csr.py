"""Single weights: for zeros without any structure, where they are nearly all."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_kernels.ops.block_sparse import check_indices

from .base import Candidate, Format
from .indexed import rows_of

DTYPES = (torch.float32, torch.float64)
MOST = 0.1  # density up to which it is tried: there it was measured to win from 16 rows of x on, at 0.05 from 1 on


class CSR(Format):
    """Compressed sparse rows of single weights, multiplied by MKL on a CPU. Trains through the dense weight.

    For linear layers and 1x1 convolutions. 4096 x 1024 at 99 % zeros, one core: 25 times as fast as the best dense
    product for one row of x, 14 times for 128.

    Attributes:
        values: (nnz,) Parameter.
        crow_indices: (N + 1,) int32, where each row starts.
        col_indices: (nnz,) int32, ascending in each row.
    """

    name = "csr"
    saves = ("values", "crow_indices", "col_indices")

    def __init__(
        self, values: Tensor, crow_indices: Tensor, col_indices: Tensor, shape: tuple[int, int], taps: int = 1
    ):
        super().__init__(shape, taps)
        self.values = values if isinstance(values, nn.Parameter) else nn.Parameter(values)
        self.register_buffer("crow_indices", crow_indices)
        self.register_buffer("col_indices", col_indices)
        self._check(crow_indices, col_indices)

    @classmethod
    def from_dense(cls, weight, tile, *, taps=1, keep=None):
        live = weight != 0 if keep is None else keep
        crow = F.pad(live.sum(1).cumsum(0), (1, 0))
        return cls(weight.detach()[live], crow.int(), live.nonzero()[:, 1].int(), weight.shape, taps)

    @classmethod
    def candidates(cls, zeros):
        weight = zeros.weight
        if zeros.tile is not None or zeros.taps > 1 or weight.device.type != "cpu" or weight.dtype not in DTYPES:
            return
        if torch.backends.mkl.is_available() and 0 < weight.count_nonzero() <= MOST * weight.numel():
            yield Candidate(cls.name, {})

    @classmethod
    def lacking(cls, device, dtype, **options):
        if device.type != "cpu" or dtype not in DTYPES or torch.backends.mkl.is_available():
            return None
        return "csr needs a torch with MKL"

    def to_dense(self):
        place = rows_of(self.crow_indices, len(self.values)) * self.shape[1] + self.col_indices
        return self.values.new_zeros(self.shape[0] * self.shape[1]).index_copy(0, place, self.values).view(self.shape)

    def linear(self, x, bias=None):
        if not self.fast(x, bias):
            return F.linear(x, self.to_dense(), bias)
        weight = self.prepared(self._matrix)
        columns = x.reshape(-1, self.shape[1]).T
        y = weight @ columns if bias is None else torch.addmm(bias[:, None], weight, columns)
        return y.T.reshape(*x.shape[:-1], self.shape[0]).contiguous()

    def runs(self, values):
        return values.is_cpu and values.dtype in DTYPES and len(values) > 0 and torch.backends.mkl.is_available()

    def _matrix(self) -> Tensor:
        """Return what MKL reads: the stored tensors themselves, checked, since it trusts the indices."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            stored = (self.crow_indices, self.col_indices, self.values.detach())
            return torch.sparse_csr_tensor(*stored, self.shape, check_invariants=True)

    def _check(self, crow: Tensor, col: Tensor) -> None:
        if self.values.dim() != 1 or col.shape != self.values.shape:
            got = f"{tuple(col.shape)} for {tuple(self.values.shape)}"
            raise ValueError(f"values must be a list and col_indices one per weight, got {got}")
        check_indices(crow, col, self.shape)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        crow = state_dict.get(f"{prefix}crow_indices")
        col = state_dict.get(f"{prefix}col_indices")
        if crow is not None and col is not None:
            self._check(crow, col)
        super()._load_from_state_dict(state_dict, prefix, *args)
