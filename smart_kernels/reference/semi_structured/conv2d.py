"""Definition of ``semi_structured_conv2d``: the convolution with the weight that values and indices make up.

The weight is the matrix (N, taps * C) with the channels of each tap filled up to whole groups. Images are NHWC.
"""

import torch.nn.functional as F
from torch import Tensor

from smart_kernels.reference.common.conv import gradient_of
from smart_kernels.reference.common.epilogue import finish
from smart_kernels.reference.common.nm import columns_of, expand
from smart_kernels.reference.common.precision import wide
from smart_kernels.shapes import Conv, groups_of


def semi_structured_conv2d(
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    geometry: list[int],
    n: int,
    m: int,
    activation: str | None,
) -> Tensor:
    """Return (B, H', W', N) from (B, H, W, C) and (N, taps * ceil(C / m) * n)."""
    conv = Conv.of(geometry)
    weight = kernel(wide(values), indices, n, m, x.shape[3], conv)
    y = F.conv2d(wide(x).movedim(3, 1), weight, None, *conv[1:]).movedim(1, 3)
    return finish(y, bias, residual, activation).to(x.dtype).contiguous()


def semi_structured_conv2d_dx(
    dy: Tensor, x: Tensor, values: Tensor, indices: Tensor, geometry: list[int], n: int, m: int
) -> Tensor:
    """Return (B, H, W, C) from (B, H', W', N): the dense gradient, with the weight spread out."""
    conv = Conv.of(geometry)
    weight = kernel(values, indices, n, m, x.shape[3], conv)
    return _gradient(dy, x, weight, conv, 0).movedim(1, 3).to(x.dtype).contiguous()


def semi_structured_conv2d_dvalues(
    dy: Tensor, x: Tensor, indices: Tensor, geometry: list[int], n: int, m: int
) -> Tensor:
    """Return (N, taps * ceil(C / m) * n): the dense gradient where values are stored, 0 beyond the edge."""
    conv = Conv.of(geometry)
    N = dy.shape[3]
    C = x.shape[3]
    dense = _gradient(dy, x, x.new_empty(N, C, *conv.kernel), conv, 1)
    dense = F.pad(dense.flatten(2).transpose(1, 2), (0, -C % m)).flatten(1)
    return dense.gather(1, columns_of(indices, n, m, dense.shape[1])).to(x.dtype)


def kernel(values: Tensor, indices: Tensor, n: int, m: int, channels: int, conv: Conv) -> Tensor:
    """Expand values and indices to (N, C, kh, kw), differentiable in ``values``."""
    matrix = expand(values, indices, n, m, conv.taps * groups_of(channels, m) * m)
    return matrix.unflatten(1, (*conv.kernel, -1))[..., :channels].permute(0, 3, 1, 2)


def _gradient(dy: Tensor, x: Tensor, weight: Tensor, conv: Conv, wanted: int) -> Tensor:
    """Return the gradient of x (0) or of the weight (1), NCHW.

    It is computed in float32 or better where cuDNN does not accumulate in it.
    """
    dy, x = dy.movedim(3, 1), x.movedim(3, 1)
    if not x.is_cuda:
        dy, x, weight = wide(dy), wide(x), wide(weight)
    return gradient_of(dy, x, weight, conv, wanted)
