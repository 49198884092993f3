"""semi_structured_linear against dense and torch's own 2:4 (cuSPARSELt after its algorithm search)."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.formats import SemiStructured
from smart_kernels.ops import semi_structured_linear, tensor_core
from smart_kernels.patterns import NM, WeightShape

from .case import Case, Shape
from .linear import Provider, dense, linear_cases

PATTERNS = (NM(2, 4), NM(1, 4), NM(4, 8))


def cases(device: str, dtype: torch.dtype, shapes: Sequence[Shape]) -> Iterator[Case]:
    """Yield every shape and pattern; the block of a row is n x m."""
    for shape in shapes:
        x = torch.randn(shape.M, shape.K, device=device, dtype=dtype)
        for pattern in PATTERNS:
            weight = pruned(shape, pattern, device, dtype)
            group = (pattern.n, pattern.m)
            found = providers(weight, x, group)
            yield from linear_cases("semi_structured_linear", shape, group, pattern.sparsity, found)


def pruned(shape: Shape, pattern: NM, device: str, dtype: torch.dtype) -> Tensor:
    """Return a weight (N, K) with n of every m, at random."""
    weight = torch.randn(shape.N, shape.K, device=device).div_(shape.K**0.5)
    weight[weight == 0] = 1.0  # a stored 0 would look pruned
    keep = pattern.hard_mask(torch.rand_like(weight), WeightShape(shape.N, 1, shape.K))
    return (weight * keep).to(dtype)


def providers(weight: Tensor, x: Tensor, group: tuple[int, int]) -> list[Provider]:
    """Return everybody who multiplies x with a weight (N, K) that has n of every m, ``group`` = (n, m)."""
    n, m = group
    found = dense(weight, x, ("fwd", "step"))
    found.append(_ours(SemiStructured.from_dense(weight, (1, 1), n=n, m=m), x, weight))
    if group == (2, 4) and x.is_cuda:
        found += tensor_cores(weight, x)
    if group == (2, 4) and (function := cusparselt(weight, x)):
        found.append(Provider("cusparselt", function, (x,), lambda x: F.linear(x, weight.double()), n / m))
    return found


def tensor_cores(weight: Tensor, x: Tensor) -> Iterator[Provider]:
    """Yield the kernels for sparse tensor cores that are exact here; inference."""
    for kernel in tensor_core.KERNELS:
        if tensor_core.verified(x.device, kernel, x.dtype) is None:
            stored = SemiStructured.from_dense(weight, (1, 1), layout=kernel).requires_grad_(False)
            yield Provider(kernel, stored.linear, (x,), lambda x: F.linear(x, weight.to(x.dtype)), 0.5, ("fwd",))


def _ours(stored: SemiStructured, x: Tensor, weight: Tensor) -> Provider:
    def ours(x: Tensor, values: Tensor) -> Tensor:
        return semi_structured_linear(x, values, stored.indices, n=stored.n, m=stored.m)

    # written apart from the package: every group is full, so the values lie where the weight is not 0
    columns = weight.ne(0).nonzero()[:, 1].view(stored.values.shape)

    def definition(x: Tensor, values: Tensor) -> Tensor:
        full = values.new_zeros(weight.shape).scatter(1, columns, values)
        return F.linear(x, full)

    return Provider("rows", ours, (x, stored.values.detach()), definition, stored.n / stored.m, ("fwd", "step"))


def cusparselt(weight: Tensor, x: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Return torch's 2:4 product with the fastest algorithm for this x; None where there is none."""
    try:
        packed = torch._cslt_compress(weight)
        algorithm = torch._cslt_sparse_mm_search(packed, x.T)

        def function(x: Tensor) -> Tensor:
            return torch._cslt_sparse_mm(packed, x.T, alg_id=algorithm, transpose_result=True)

        if function(x).shape != (len(x), len(weight)):
            raise ValueError("cuSPARSELt returned another shape")
    except (RuntimeError, NotImplementedError, ValueError, AttributeError):
        return None
    return function
