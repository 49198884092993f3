"""The operators: checked, differentiable, registered as ``torch.ops.smart_kernels.*``."""

from .block_sparse_conv1d import block_sparse_conv1d
from .block_sparse_conv2d import block_sparse_conv2d
from .block_sparse_conv_transpose2d import block_sparse_conv_transpose2d
from .block_sparse_linear import block_sparse_linear
from .fp8 import quantize_fp8, quantize_int8
from .masked_conv2d import masked_conv2d
from .masked_linear import masked_linear
from .quantized_semi_structured_linear import quantized_semi_structured_linear, quantized_semi_structured_pack
from .semi_structured_conv2d import semi_structured_conv2d
from .semi_structured_linear import semi_structured_linear
from .semi_structured_prune import semi_structured_prune
from .smart_linear import smart_linear
from .smart_weight import smart_weight
from .soft_topk import soft_topk

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
