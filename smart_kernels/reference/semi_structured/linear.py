"""Definition of ``semi_structured_linear``: the product with the weight that values and indices make up."""

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.reference.common.epilogue import finish
from smart_kernels.reference.common.nm import columns_of, expand


def semi_structured_linear(
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    n: int,
    m: int,
    activation: str | None,
) -> Tensor:
    """Return (M, N) from (M, K)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    weight = expand(values.to(wide), indices, n, m, x.shape[1])
    y = x.to(wide) @ weight.T
    return finish(y, *(t if t is None else t.to(wide) for t in (bias, residual)), activation).to(x.dtype)


def semi_structured_linear_dx(dy: Tensor, values: Tensor, indices: Tensor, n: int, m: int, in_features: int) -> Tensor:
    """Return (M, K) from (M, N)."""
    wide = torch.promote_types(dy.dtype, torch.float32)
    weight = expand(values.to(wide), indices, n, m, in_features)
    return (dy.to(wide) @ weight).to(dy.dtype)


def semi_structured_linear_dvalues(dy: Tensor, x: Tensor, indices: Tensor, n: int, m: int) -> Tensor:
    """Return (N, G * n) from (M, N) and (M, K): the dense gradient where values are stored, 0 beyond the edge."""
    K = x.shape[1]
    dense = F.pad(dy.T @ x, (0, -K % m))
    return dense.gather(1, columns_of(indices, n, m, K))
