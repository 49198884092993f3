import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_kernels.ops.semi_structured_linear import check_places, decode_words, semi_structured_linear
from smart_kernels.reference import semi_structured as reference
from smart_kernels.reference.semi_structured import compress, expand, groups_of, saved_indices

from .base import Format, eager_inference

GROUPS = (2, 4, 8)  # sizes of a group that can be stored
LAYOUTS = ("rows", "decode")  # of the indices: as they are saved, or for products of few rows (2:4, fp16 or bf16)


class SemiStructured(Format):
    """n of every m consecutive input channels, at each output channel and tap. Trains; the saved form.

    A group with fewer than n weights stores zeros for the rest, and these train, too.

    Attributes:
        values: (N, taps * ceil(C / m) * n) Parameter, 0 where a group reaches beyond the edge.
        indices: their places in the groups, in ``layout``; no other copy of them is kept. ``state_dict`` has them
            packed as ``reference.semi_structured`` says, whatever the layout.
        kept: (2,) int64, n and m.
        layout: ``"rows"`` or ``"decode"``.
        transposable: the transposed weight is 2:4 as well, so the gradient of the input is such a product, too.
    """

    name = "nm"

    def __init__(
        self,
        values: Tensor,
        indices: Tensor,
        kept: Tensor,
        shape: tuple[int, int],
        taps: int = 1,
        layout: str = "rows",
        transposable: bool = False,
    ):
        super().__init__(shape, taps)
        self.n, self.m = kept.tolist()
        self.layout, self.transposable = layout, transposable
        self._check(indices, values)
        self.values = values if isinstance(values, nn.Parameter) else nn.Parameter(values)
        self.register_buffer("indices", self._laid_out(indices))
        self.register_buffer("kept", kept)

    @classmethod
    def from_dense(cls, weight, tile, *, taps=1, keep=None, n=2, m=4, layout="rows", transposable=False):
        if m not in GROUPS or not 0 < n < m:
            raise ValueError(f"n:m must keep 0 < n < m with m one of {GROUPS}, got {n}:{m}")
        weight, keep = weight.detach(), weight != 0 if keep is None else keep
        values, indices = compress(_padded(weight, taps, m), _padded(keep, taps, m), n, m)
        return cls(values, indices, torch.tensor([n, m]).to(indices.device), weight.shape, taps, layout, transposable)

    def saved(self) -> tuple[Tensor, Tensor]:
        """(values, indices), indices (N, bytes) uint8 as they are saved; what every other form derives from."""
        return self.values, saved_indices(self.indices, self.columns)

    @property
    def columns(self) -> int:
        """K with the channels of each tap filled up to whole groups."""
        return self.taps * groups_of(self.shape[1] // self.taps, self.m) * self.m

    def to_dense(self):
        values, indices = self.saved()
        return _cropped(expand(values, indices, self.n, self.m, self.columns), self.taps, self.shape[1])

    def linear(self, x, bias=None):
        settings = {"n": self.n, "m": self.m, "transposable": self.transposable}
        return semi_structured_linear(x, self.values, self.indices, bias, **settings)

    def options(self):
        return {"n": self.n, "m": self.m, "layout": self.layout, "transposable": self.transposable}

    def _laid_out(self, indices: Tensor) -> Tensor:
        return decode_words(indices, self.columns) if self.layout == "decode" else indices

    def _check(self, indices: Tensor, values: Tensor) -> None:
        length = self.columns // self.m * self.n
        size = self.shape[0], -(-length * reference.index_bits(self.m) // 8)
        if values.shape != (self.shape[0], length) or indices.shape != size or indices.dtype != torch.uint8:
            raise ValueError(
                f"{self.n}:{self.m} of {self.shape} needs values {(self.shape[0], length)} and indices {size} uint8, "
                f"got {tuple(values.shape)} and {tuple(indices.shape)} {indices.dtype}"
            )
        if self.layout not in LAYOUTS or (self.layout == "decode" and ((self.n, self.m) != (2, 4) or self.taps > 1)):
            raise ValueError(f"layout must be one of {LAYOUTS}, 'decode' for 2:4 with one tap, got {self.layout!r}")
        if self.transposable and ((self.n, self.m) != (2, 4) or self.shape[0] % 4 or self.shape[1] % 4):
            raise ValueError(f"transposable needs 2:4 and sizes divisible by 4, got {self.n}:{self.m} of {self.shape}")
        check_places(indices, self.n, self.m, self.columns)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}indices"] = self.saved()[1]

    def _load_from_state_dict(self, state_dict, prefix, *args):
        values, indices = (state_dict.get(f"{prefix}{name}") for name in ("values", "indices"))
        if values is not None and indices is not None:
            self._check(indices, values)
            state_dict = {**state_dict, f"{prefix}indices": self._laid_out(indices)}
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.n}:{self.m}, {self.layout}"


class CuSparseLt(SemiStructured):
    """2:4 run by torch's own sparse product on NVIDIA GPUs, which holds a packed copy for inference."""

    name = "cusparselt"

    @classmethod
    def from_dense(cls, weight, tile, *, taps=1, keep=None, **options):
        stored = super().from_dense(weight, tile, taps=taps, keep=keep)
        if taps > 1 or not weight.is_cuda or weight.dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"cusparselt needs a linear fp16 or bf16 weight on a GPU, got {weight.dtype} on {weight.device}"
            )
        try:
            with torch.no_grad():  # whether this GPU, this torch and this shape have it shows when it is tried
                stored.linear(weight.new_zeros(8, weight.shape[1]))
        except (RuntimeError, NotImplementedError) as error:
            raise ValueError(f"cusparselt does not take {tuple(weight.shape)} here: {error}") from error
        return stored

    def linear(self, x, bias=None):
        if not eager_inference(x, self.values, bias) or x.dtype != self.values.dtype:
            return super().linear(x, bias)
        packed = self.prepared(lambda: torch.sparse.to_sparse_semi_structured(self.to_dense().detach()))
        return F.linear(x.flatten(0, -2), packed, bias).view(*x.shape[:-1], -1)

    def options(self):
        return {}


def _padded(matrix: Tensor, taps: int, m: int) -> Tensor:
    """(N, taps * C) with the channels of each tap filled up to whole groups."""
    channels = matrix.shape[1] // taps
    return F.pad(matrix.unflatten(1, (taps, channels)), (0, -channels % m)).flatten(1)


def _cropped(matrix: Tensor, taps: int, columns: int) -> Tensor:
    """The inverse of ``_padded``."""
    return matrix.unflatten(1, (taps, -1))[:, :, : columns // taps].flatten(1)
