"""The operators: checked, differentiable, registered as ``torch.ops.smart_kernels.*``."""

from .block_sparse.conv1d import block_sparse_conv1d
from .block_sparse.conv2d import block_sparse_conv2d
from .block_sparse.conv_transpose2d import block_sparse_conv_transpose2d
from .block_sparse.linear import block_sparse_linear
from .common.quantize import quantize_fp8, quantize_int8
from .masked.conv2d import masked_conv2d
from .masked.linear import masked_linear
from .tensor_core.quantized_linear import quantized_semi_structured_linear, quantized_semi_structured_pack
from .semi_structured.conv2d import semi_structured_conv2d
from .semi_structured.linear import semi_structured_linear
from .semi_structured.prune import semi_structured_prune
from .masked.smart_linear import smart_linear
from .topk.smart_weight import smart_weight
from .topk.soft_topk import soft_topk

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
