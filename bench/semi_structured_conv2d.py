"""semi_structured_conv2d beside the dense convolution, which does the same arithmetic with more memory."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.formats import SemiStructured
from smart_kernels.ops import semi_structured_conv2d
from smart_kernels.patterns import NM, WeightShape

from .case import Case
from .conv2d import Layer, case_of
from .linear import Provider

PATTERNS = (NM(2, 4), NM(4, 8))


def cases_of(layer: Layer, batch: int, device: str, dtype: torch.dtype, passes: Sequence[str]) -> Iterator[Case]:
    """Every pattern of one layer."""
    x = torch.randn(batch, layer.C, layer.size, layer.size, device=device, dtype=dtype)
    x = x.to(memory_format=torch.channels_last)
    for pattern in PATTERNS:
        weight = pruned(layer, pattern, device, dtype)
        for provider in providers(layer, weight, x, pattern):
            for pass_ in passes:
                block = f"{pattern.n}x{pattern.m}"
                yield case_of("semi_structured_conv2d", layer, provider, block, pattern.sparsity, pass_)


def pruned(layer: Layer, pattern: NM, device: str, dtype: torch.dtype) -> Tensor:
    """(N, taps * C), n of every m channels kept at random."""
    columns = layer.conv.taps * layer.C
    weight = torch.randn(layer.N, columns, device=device).div_(columns**0.5)
    weight[weight == 0] = 1.0  # a kept 0 would look pruned
    keep = pattern.hard_mask(torch.rand_like(weight), WeightShape(layer.N, layer.conv.taps, layer.C))
    return (weight * keep).to(dtype)


def providers(layer: Layer, weight: Tensor, x: Tensor, pattern: NM) -> list[Provider]:
    """The dense convolution and ours."""
    conv, taps = layer.conv, layer.conv.taps
    kernel = weight.unflatten(1, (*conv.kernel, -1)).permute(0, 3, 1, 2)
    last = kernel.contiguous(memory_format=torch.channels_last)
    stored = SemiStructured.from_dense(weight, (1, 1), taps=taps, n=pattern.n, m=pattern.m)
    indices, kept = stored.indices, {"n": pattern.n, "m": pattern.m}

    def dense(x: Tensor, kernel: Tensor) -> Tensor:
        return F.conv2d(x, kernel, None, *conv[1:])

    def ours(x: Tensor, values: Tensor) -> Tensor:
        return semi_structured_conv2d(x, values, indices, **conv.named, **kept)

    # written apart from the package: every group is full, so the values lie where the weight is not 0
    columns = weight.ne(0).nonzero()[:, 1].view(stored.values.shape)

    def definition(x: Tensor, values: Tensor) -> Tensor:
        full = values.new_zeros(weight.shape).scatter(1, columns, values)
        return dense(x, full.unflatten(1, (*conv.kernel, -1)).permute(0, 3, 1, 2))

    both, density = ("fwd", "step"), pattern.n / pattern.m
    return [
        Provider("dense", dense, (x, last), dense, passes=both, baseline=True),
        Provider("rows", ours, (x, stored.values.detach()), definition, density, both),
    ]
