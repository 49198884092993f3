"""2:4 layers in eight bits, for inference."""

import torch
from torch import Tensor, nn

from smart_kernels.ops import (
    quantize_int8,
    quantized_semi_structured_linear,
    quantized_semi_structured_pack,
    semi_structured_prune,
)
from smart_kernels.ops.tensor_core import PackedWeight
from smart_kernels.shapes import groups_of

OUT = (torch.bfloat16, torch.float16, torch.float32)


class QuantizedLinear(nn.Module):
    """A Linear of which two of every four weights are 0, multiplied in int8. Does not learn.

    Each row of the weight has a scale; the input gets one at every call, of its largest value. On a GPU the product
    runs on sparse tensor cores, on a CPU as the reference, which is slow.

    Attributes:
        weight, metadata: what ``quantized_semi_structured_pack`` made of the weight.
        scale: (N,) fp32.
        bias: (N,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        """Quantize a weight (N, K) that is 2:4.

        Raises:
            ValueError: more than two of four weights are not 0.
        """
        super().__init__()
        self.out_features, self.in_features = weight.shape
        if not is_2_4(weight):
            raise ValueError(
                f"weight must have at most two of every four that are not 0, got {tuple(weight.shape)} with more"
            )
        values, indices = semi_structured_prune(weight.detach())
        values, scale = quantize_int8(values, per="block")
        packed = quantized_semi_structured_pack(values, indices)
        self.register_buffer("weight", packed.weight)
        self.register_buffer("metadata", packed.metadata)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., K) to (..., N), in the dtype of the input."""
        x, scale = quantize_int8(input)
        packed = PackedWeight("mma", self.weight, self.metadata, self.out_features, groups_of(self.in_features, 4))
        dtype = input.dtype if input.dtype in OUT else torch.float32
        bias = None if self.bias is None else self.bias.to(dtype)
        y = quantized_semi_structured_linear(x, packed, self.scale * scale, bias, out_dtype=dtype)
        return y.to(input.dtype)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.scale = self.scale.float()  # under .half(), too
        return self

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


def is_2_4(weight: Tensor) -> bool:
    """Return whether rows have four weights and more, and at most two of every four are not 0."""
    live = nn.functional.pad(weight.detach() != 0, (0, -weight.shape[1] % 4)).unflatten(1, (-1, 4)).sum(-1)
    return weight.shape[1] >= 4 and bool((live <= 2).all())
