"""masked_linear and smart_linear (training) against dense and against masking the weight first."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.ops import masked_linear, smart_linear

from .case import Case, Shape
from .linear import Provider, dense, expand, linear_cases, random_mask

TILES = ((64, 64), (32, 32))
SPARSITIES = (0.5, 0.8, 0.9)
PASSES = ("fwd", "bwd", "step")
TEMPERATURE = 0.1
EPS = 1e-3


def cases(
    device: str, dtype: torch.dtype, shapes: Sequence[Shape], tiles: Sequence[tuple[int, int]] = TILES
) -> Iterator[Case]:
    """Yield hard 0/1 masks for masked_linear, soft ones for smart_linear."""
    for shape in shapes:
        x = torch.randn(shape.M, shape.K, device=device, dtype=dtype)
        weight = torch.randn(shape.N, shape.K, device=device, dtype=dtype).div_(shape.K**0.5)
        for tile in tiles:
            for sparsity in SPARSITIES:
                yield from _masked(shape, x, weight, tile, sparsity)
                yield from _smart(shape, x, weight, tile, sparsity)


def mask_then_dense(x: Tensor, weight: Tensor, mask: Tensor, *, tile: tuple[int, int], shape: Shape) -> Tensor:
    """Mask the weight, then multiply: as one writes it without a kernel."""
    return F.linear(x, weight * expand(mask, tile, shape).to(weight.dtype))


def compiled(naive: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Iterator[Provider]:
    """Yield what ``torch.compile`` makes of masking and multiplying, on a GPU."""
    if inputs[0].is_cuda:
        torch._dynamo.reset()  # else it gives up after a few shapes, and runs as if it were not compiled
        fast = torch.compile(naive, dynamic=False)
        yield Provider("mask-then-dense-compiled", fast, inputs, naive, passes=("fwd", "step"))


def _masked(shape: Shape, x: Tensor, weight: Tensor, tile: tuple[int, int], sparsity: float) -> Iterator[Case]:
    mask = random_mask(shape, tile, sparsity, x.device.type)
    naive = partial(mask_then_dense, tile=tile, shape=shape)

    def fused(x, weight, mask):
        return masked_linear(x, weight, mask, tile=tile)

    def definition(x, weight, mask):
        return F.linear(x, weight * expand(mask * (mask > 0), tile, shape))  # dead tiles have no gradient

    providers = [
        *dense(weight * expand(mask, tile, shape).to(weight.dtype), x, PASSES),
        Provider("mask-then-dense", naive, (x, weight, mask), naive, passes=PASSES),
        *compiled(naive, (x, weight, mask)),
        Provider("masked_linear", fused, (x, weight, mask), definition, mask.mean().item(), PASSES, tile=tile),
    ]
    yield from linear_cases("masked_linear", shape, tile, sparsity, providers)


def _smart(shape: Shape, x: Tensor, weight: Tensor, tile: tuple[int, int], sparsity: float) -> Iterator[Case]:
    naive = partial(mask_then_dense, tile=tile, shape=shape)
    live = random_mask(shape, tile, sparsity, x.device.type)
    height = torch.rand_like(live).mul(0.4).sub(0.2)  # live masks from 0.12 to 0.88
    scores = torch.where(live > 0, height, -5.0)
    threshold = torch.zeros((), device=x.device, dtype=torch.float64)

    def fused(x, weight, scores):
        return smart_linear(x, weight, scores, threshold, TEMPERATURE, tile=tile, eps=EPS)

    def unfused(x, weight, scores):
        return naive(x, weight, torch.sigmoid(scores / TEMPERATURE))

    def definition(x, weight, scores):
        mask = torch.sigmoid(scores / TEMPERATURE)
        return F.linear(x, weight * expand(torch.where(mask > EPS, mask, 0.0), tile, shape))

    masked = torch.sigmoid(scores / TEMPERATURE)
    inputs = (x, weight, scores)
    providers = [
        *dense(weight * expand(masked, tile, shape).to(weight.dtype), x, PASSES),
        Provider("mask-then-dense", unfused, inputs, unfused, passes=PASSES),
        Provider("smart_linear", fused, inputs, definition, live.mean().item(), PASSES, tile=tile),
    ]
    yield from linear_cases("smart_linear", shape, tile, sparsity, providers)
