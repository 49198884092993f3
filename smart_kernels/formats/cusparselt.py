import torch
import torch.nn.functional as F

from .base import eager_inference
from .semi_structured import SemiStructured


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
