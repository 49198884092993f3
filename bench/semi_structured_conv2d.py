"""semi_structured_conv2d beside the dense convolution, which does the same arithmetic with more memory."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from smart_kernels.formats import SemiStructured
from smart_kernels.ops import semi_structured_conv2d
from smart_kernels.patterns import NM, WeightShape

from .case import Case, Problem
from .conv2d import TRAINS, Layer
from .linear import Provider

PATTERNS = (NM(2, 4), NM(4, 8))


def cases_of(layer: Layer, batch: int, device: str, dtype: torch.dtype, passes: Sequence[str]) -> Iterator[Case]:
    """Yield every pattern of one layer."""
    x = layer.images(batch, device, dtype)
    for pattern in PATTERNS:
        weight = pruned(layer, pattern, device, dtype)
        for pass_ in passes:
            block = f"{pattern.n}x{pattern.m}"
            problem = Problem("semi_structured_conv2d", layer.shape(batch), block, pattern.sparsity, dtype, pass_)
            yield from layer.cases(problem, providers(layer, weight, x, pattern))


def pruned(layer: Layer, pattern: NM, device: str, dtype: torch.dtype) -> Tensor:
    """Return a weight (N, taps * C) with n of every m channels, at random."""
    columns = layer.conv.taps * layer.C
    weight = torch.randn(layer.N, columns, device=device).div_(columns**0.5)
    weight[weight == 0] = 1.0  # a stored 0 would look pruned
    keep = pattern.hard_mask(torch.rand_like(weight), WeightShape(layer.N, layer.conv.taps, layer.C))
    return (weight * keep).to(dtype)


def providers(layer: Layer, weight: Tensor, x: Tensor, pattern: NM) -> list[Provider]:
    """Return the dense convolution and ours."""
    conv = layer.conv
    kernel = weight.unflatten(1, (*conv.kernel, -1)).permute(0, 3, 1, 2)
    last = kernel.contiguous(memory_format=torch.channels_last)
    stored = SemiStructured.from_dense(weight, (1, 1), taps=conv.taps, n=pattern.n, m=pattern.m)
    # written apart from the package: every group is full, so the values lie where the weight is not 0
    columns = weight.ne(0).nonzero()[:, 1].view(stored.values.shape)

    def ours(x: Tensor, values: Tensor) -> Tensor:
        return semi_structured_conv2d(x, values, stored.indices, **conv.named, n=pattern.n, m=pattern.m)

    def definition(x: Tensor, values: Tensor) -> Tensor:
        full = values.new_zeros(weight.shape).scatter(1, columns, values)
        return layer.dense(x, full.unflatten(1, (*conv.kernel, -1)).permute(0, 3, 1, 2))

    return [
        Provider("dense", layer.dense, (x, last), layer.dense, passes=TRAINS, baseline=True),
        Provider("rows", ours, (x, stored.values.detach()), definition, pattern.n / pattern.m, TRAINS),
    ]
