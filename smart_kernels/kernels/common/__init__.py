"""Products with blocks and with n:m weights, and what all kernels share."""

from .block_grad import block_grad_kernel
from .block_matmul import block_matmul_kernel
from .conv_matmul import conv_grad_kernel, conv_matmul_kernel
from .nm import transpose_kernel
from .nm_matmul import semi_structured_kernel
from .side_by_side import Compiler, compiling
from .tuner import Tuned
from .tuning import on_this_device

__all__ = [
    "Compiler",
    "Tuned",
    "block_grad_kernel",
    "block_matmul_kernel",
    "compiling",
    "conv_grad_kernel",
    "conv_matmul_kernel",
    "on_this_device",
    "semi_structured_kernel",
    "transpose_kernel",
]
