"""The operators: checked, differentiable, registered as ``torch.ops.smart_kernels.*``."""

from .block_sparse import (
    block_sparse_conv1d,
    block_sparse_conv2d,
    block_sparse_conv_transpose2d,
    block_sparse_linear,
)
from .common import quantize_fp8, quantize_int8
from .masked import masked_conv2d, masked_linear, smart_linear
from .semi_structured import semi_structured_conv2d, semi_structured_linear, semi_structured_prune
from .tensor_core import quantized_semi_structured_linear, quantized_semi_structured_pack
from .topk import smart_weight, soft_topk

__all__ = [
    "block_sparse_conv1d",
    "block_sparse_conv2d",
    "block_sparse_conv_transpose2d",
    "block_sparse_linear",
    "masked_conv2d",
    "masked_linear",
    "quantize_fp8",
    "quantize_int8",
    "quantized_semi_structured_linear",
    "quantized_semi_structured_pack",
    "semi_structured_conv2d",
    "semi_structured_linear",
    "semi_structured_prune",
    "smart_linear",
    "smart_weight",
    "soft_topk",
]
