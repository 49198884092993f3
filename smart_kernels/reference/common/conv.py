"""The gradients of a dense convolution."""

import torch
from torch import Tensor

from smart_kernels.shapes import Conv

from .precision import wide


def gradient(dy: Tensor, x: Tensor, weight: Tensor, conv: Conv, wanted: int) -> Tensor:
    """Return the gradient of x (0) or of the weight (1), all NCHW but dy, in float32 or better."""
    return gradient_of(wide(dy).movedim(3, 1), x, weight, conv, wanted)


def gradient_of(dy: Tensor, x: Tensor, weight: Tensor, conv: Conv, wanted: int) -> Tensor:
    """Return the gradient of x (0) or of the weight (1), all NCHW and of one dtype."""
    settings = (None, conv.stride, conv.padding, conv.dilation, False, [0, 0], 1)
    mask = [wanted == 0, wanted == 1, False]
    return torch.ops.aten.convolution_backward(dy, x, weight, *settings, mask)[wanted]
