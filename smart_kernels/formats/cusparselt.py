import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.ops.common import flat
from smart_kernels.reference.common import expand

from .base import Candidate
from .prepared import eager_inference
from .semi_structured import SemiStructured

CODES = 30713  # a prime: no order made of powers of two puts a code where the same code was


class CuSparseLt(SemiStructured):
    """2:4 run by torch's own sparse product on NVIDIA GPUs, for inference; trains as ``SemiStructured`` does.

    torch's packed tensor begins with the values, row after row; the places follow in an order that only cuSPARSELt
    knows. ``values`` is that beginning, so there is no other copy, and a step of an optimizer needs no packing. The
    places are kept as they are saved, too: a sixteenth of the dense weight.

    A weight that was moved, copied or loaded is packed again at the next product. Compiled code, training, and a device
    where torch has no such tensor, or one that begins with something else, multiply the saved form.
    """

    name = "cusparselt"
    saves = ()  # saved as SemiStructured

    @classmethod
    def from_dense(cls, weight, tile, *, taps=1, keep=None, **options):
        stored = super().from_dense(weight, tile, taps=taps, keep=keep)
        if taps > 1 or not torch_packs(weight):
            raise ValueError(
                f"cusparselt needs a linear fp16 or bf16 weight on a GPU, got {weight.dtype} on {weight.device}"
            )
        if isinstance(reason := stored._packed(), str):
            raise ValueError(f"cusparselt does not take {tuple(weight.shape)} here: {reason}")
        return stored

    @classmethod
    def from_zeros(cls, zeros, **options):
        return cls.from_dense(zeros.weight, (1, 1), taps=zeros.taps, **options)

    @classmethod
    def candidates(cls, zeros):
        if zeros.groups is not None and zeros.groups[:2] == (2, 4):
            yield Candidate(cls.name, {})

    def linear(self, x, bias=None):
        fits = x.dtype == self.values.dtype and torch_packs(self.values) and eager_inference(x, self.values, bias)
        if not fits or not x.numel() or isinstance(packed := self._packed(), str):
            return super().linear(x, bias)
        return F.linear(flat(x), packed, bias).view(*x.shape[:-1], -1)

    def options(self):
        return {}

    def _packed(self) -> Tensor | str:
        """Return torch's tensor of the present values and places, or why there is none."""
        packed = self.prepared(self._pack, of=(self.indices,))
        if isinstance(packed, str) or packed.packed.data_ptr() == self.values.data_ptr():
            return packed
        self._cache = None  # the values are elsewhere now
        return self.prepared(self._pack, of=(self.indices,))

    def _pack(self) -> Tensor | str:
        """Pack codes that are not zero, so that all places are taken, and put the values where the codes are found."""
        values = self.values.detach()
        dense = self.values.new_zeros(8, self.shape[1])
        with torch.inference_mode(False), torch.no_grad():  # the values may be trained later
            try:
                codes = _codes(values)
                packed = torch.sparse.to_sparse_semi_structured(expand(codes, self.indices, 2, 4, self.shape[1]))
                F.linear(dense, packed)  # whether this GPU, this torch and this shape have it shows when it is tried
            except (RuntimeError, NotImplementedError) as error:
                return str(error)
            if not torch.equal(packed.values().view(torch.int16), codes.view(torch.int16)):
                return "the packed tensor does not begin with the values"
            packed.values().copy_(values)
            self.values.data = packed.values()
        return packed


def torch_packs(weight: Tensor) -> bool:
    """Return whether torch may have a sparse product for this device and dtype."""
    return weight.is_cuda and weight.dtype in (torch.float16, torch.bfloat16)


def _codes(values: Tensor) -> Tensor:
    """Return normal numbers of the dtype and shape of ``values``, most of them different."""
    codes = 1024 + torch.arange(values.numel(), dtype=torch.int32, device=values.device) % CODES
    return codes.to(torch.int16).view_as(values).view(values.dtype)
