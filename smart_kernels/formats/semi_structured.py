import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smart_kernels.ops import tensor_core
from smart_kernels.ops.common import TRITON_DEVICES, autocast, autocast_dtype, check_places
from smart_kernels.ops.semi_structured import semi_structured_conv2d, semi_structured_linear
from smart_kernels.reference.common import compress, expand, finish
from smart_kernels.shapes import groups_of, index_bits

from .base import Candidate, Format
from .prepared import plain_operators, state
from .resident import FORMER, LAYOUTS, resident, saved
from .whole_groups import cropped, expand_for_onnx, filled_both_ways, padded
from .zeros import Zeros, check_groups, read_groups


class SemiStructured(Format):
    """n of every m consecutive input channels, at each output channel and tap. Trains; the saved form.

    A group with fewer than n weights stores zeros for the rest, and these train, too. On a GPU, convolutions of any
    kernel size read it as it is.

    Values and indices lie in ``layout``; there is no other copy of them. ``state_dict`` has them as they are saved,
    see ``reference.common.nm``, whatever the layout.

    Attributes:
        values: Parameter; (N, taps * ceil(C / m) * n) where it is not arranged for sparse tensor cores, 0 where a group
            reaches beyond the edge.
        indices: their places in the groups.
        kept: (2,) int64, n and m.
        layout: of ``LAYOUTS``. With those of the sparse tensor cores, products in fp16 or bf16 and their gradients run
            there; all else derives the saved form.
        transposable: the transposed weight is 2:4 as well, so the gradient of the input is such a product, too.
        turned: metadata of the transposed weight where its product runs there, or None. Not saved. A buffer, so that
            compiled code reads it as well; that cannot see indices which were changed in place, the next gradient in
            eager mode does.
    """

    name = "nm"
    saves = ("values", "indices", "kept")
    _turned_of = None  # state of the indices that ``turned`` was made of

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
        self.n, self.m = read_groups(kept)
        self.layout = "rows" if layout == FORMER else layout  # old files name it
        self.transposable = transposable
        self._check(indices, values)
        values, indices = resident(values, indices, self.layout, self.columns)
        self.values = values if isinstance(values, nn.Parameter) else nn.Parameter(values.detach())
        self.register_buffer("indices", indices)
        self.register_buffer("kept", kept)
        self.register_buffer("turned", None, persistent=False)
        self._turned()

    @classmethod
    def from_dense(cls, weight, tile, *, taps=1, keep=None, n=2, m=4, layout="rows", transposable=False):
        check_groups(n, m)
        keep = padded(weight != 0 if keep is None else keep, taps, m)
        matrix = padded(weight.detach(), taps, m)
        if transposable and (n, m) == (2, 4) and len(weight) % 4 == 0:
            keep = filled_both_ways(matrix, keep)
        values, indices = compress(matrix, keep, n, m)
        kept = torch.stack([torch.full((), size, device=indices.device) for size in (n, m)])  # no copy from the host
        self = cls(values, indices, kept, weight.shape, taps, layout, transposable)
        if reason := cls.lacking(weight.device, weight.dtype, layout=layout):
            raise ValueError(reason)
        return self

    @classmethod
    def from_zeros(cls, zeros, **options):
        found = {} if zeros.groups is None else zeros.groups._asdict()
        options = found | options
        if not {"n", "m"} <= options.keys():
            raise ValueError(f"{cls.name} needs a weight of which n of every m are kept, got another")
        return super().from_zeros(zeros, **options)

    @classmethod
    def candidates(cls, zeros):
        if zeros.groups is not None:
            for layout in LAYOUTS if _has_tensor_core_kernels(zeros) else LAYOUTS[:1]:
                yield Candidate(f"{cls.name} {layout}", {**zeros.groups._asdict(), "layout": layout})

    @classmethod
    def lacking(cls, device, dtype, **options):
        layout = options.get("layout")
        return tensor_core.verified(device, layout, dtype) if layout in tensor_core.KERNELS else None

    def saved(self) -> tuple[Tensor, Tensor]:
        """Return (values, indices) as they are saved, differentiable in ``values``; other forms derive from them."""
        return saved(self.values, self.indices, self.layout, self.shape[0], self.columns)

    @property
    def columns(self) -> int:
        """Return K with the channels of each tap filled up to whole groups."""
        return self.taps * groups_of(self.shape[1] // self.taps, self.m) * self.m

    def to_dense(self):
        values, indices = self.saved()
        spread = expand_for_onnx if plain_operators() else expand
        return cropped(spread(values, indices, self.n, self.m, self.columns), self.taps, self.shape[1])

    def linear(self, x, bias=None, activation=None, residual=None):
        if plain_operators():
            return finish(F.linear(x, self.to_dense(), bias), None, residual, activation)
        if self._arranged and self._on_tensor_cores(x, bias):
            x, values, bias = (t if t is None else autocast(t) for t in (x, self.values, bias))
            packed = tensor_core.PackedWeight(self.layout, values, self.indices, self.shape[0], self.columns // 4)
            learns = torch.is_grad_enabled() and x.requires_grad
            return tensor_core.linear(x, packed, bias, self._turned() if learns else None, activation, residual)
        values, indices = self.saved() if self._arranged else (self.values, self.indices)
        settings = {"n": self.n, "m": self.m, "transposable": self.transposable}
        return semi_structured_linear(x, values, indices, bias, **settings, activation=activation, residual=residual)

    def conv2d(self, x, bias, conv, activation=None, residual=None):
        # without a kernel the operator makes the weight dense as well, but rounds fewer sums: slower
        if conv.pointwise or x.dim() != 4 or x.device.type not in TRITON_DEVICES:
            return finish(super().conv2d(x, bias, conv), None, residual, activation)
        settings = {**conv.named, "n": self.n, "m": self.m}
        return semi_structured_conv2d(x, *self.saved(), bias, **settings, activation=activation, residual=residual)

    def fuses(self):
        return self.name == SemiStructured.name and self.values.device.type in TRITON_DEVICES

    def options(self):
        return {"n": self.n, "m": self.m, "layout": self.layout, "transposable": self.transposable}

    @property
    def _arranged(self) -> bool:
        """Return whether the values are in the order of a sparse tensor-core kernel."""
        return self.layout in tensor_core.KERNELS

    def _on_tensor_cores(self, x: Tensor, bias: Tensor | None) -> bool:
        dtypes = {autocast_dtype(t) for t in (x, self.values, bias) if t is not None}
        if torch.compiler.is_compiling():  # what eager mode has verified; a tracer cannot
            return len(dtypes) == 1 and tensor_core.exact(x.device, self.layout, *dtypes)
        return len(dtypes) == 1 and tensor_core.verified(x.device, self.layout, *dtypes) is None

    def _turned(self) -> Tensor | None:
        """Return ``turned``, made anew if the places have changed."""
        if torch.compiler.is_compiling() or not (self._arranged and self.transposable):
            return self.turned
        if self._turned_of != state(self.indices):
            with torch.inference_mode(False):  # it may be needed for a backward
                self.turned = tensor_core.turned_metadata(self.indices, *self.shape)
            self._turned_of = state(self.indices)
        return self.turned

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self._turned()
        return self

    def _check(self, indices: Tensor, values: Tensor) -> None:
        length = self.columns // self.m * self.n
        size = self.shape[0], -(-length * index_bits(self.m) // 8)
        if values.shape != (self.shape[0], length) or indices.shape != size or indices.dtype != torch.uint8:
            raise ValueError(
                f"{self.n}:{self.m} of {self.shape} needs values {(self.shape[0], length)} and indices {size} uint8, "
                f"got {tuple(values.shape)} and {tuple(indices.shape)} {indices.dtype}"
            )
        plain = (self.n, self.m) == (2, 4) and self.taps == 1
        if self.layout not in LAYOUTS or not (plain or self.layout == "rows"):
            raise ValueError(f"layout must be 'rows', or for 2:4 with one tap of {LAYOUTS}, got {self.layout!r}")
        if self.transposable and ((self.n, self.m) != (2, 4) or self.shape[0] % 4 or self.shape[1] // self.taps % 4):
            raise ValueError(f"transposable needs 2:4 and sizes divisible by 4, got {self.n}:{self.m} of {self.shape}")
        check_places(indices, self.n, self.m, self.columns, self.transposable)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, tensor in zip(("values", "indices"), self.saved(), strict=True):
            destination[f"{prefix}{name}"] = tensor if keep_vars else tensor.detach()

    def _load_from_state_dict(self, state_dict, prefix, *args):
        keys = f"{prefix}values", f"{prefix}indices"
        values, indices = map(state_dict.get, keys)
        if values is not None and indices is not None:
            self._check(indices, values)
            arranged = resident(values, indices, self.layout, self.columns)
            state_dict = {**state_dict, **dict(zip(keys, arranged, strict=True))}
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._turned()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.n}:{self.m}, {self.layout}"


def _has_tensor_core_kernels(zeros: Zeros) -> bool:
    """Return whether sparse tensor cores may read the weight: 2:4 in 16 bits on a GPU, one tap."""
    return zeros.groups[:2] == (2, 4) and zeros.taps == 1 and zeros.weight.is_cuda and zeros.weight.element_size() == 2
