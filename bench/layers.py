"""The storage formats of a pruned layer beside dense, forward: which wins, and from which sparsity on."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.formats import ELL, FORMATS, Format

from .case import Case, Shape
from .linear import Provider, dense, expand, linear_cases, random_mask

BLOCKS = ((64, 64), (32, 32), (1, 0))  # K = 0: the whole row, a pruned output channel
SPARSITIES = (0.5, 0.8, 0.9, 0.95)


def cases(device: str, dtype: torch.dtype, shapes: Sequence[Shape]) -> Iterator[Case]:
    """Yield dense and every sparse form of each shape, block and sparsity."""
    for shape in shapes:
        x = torch.randn(shape.M, shape.K, device=device, dtype=dtype)
        weight = torch.randn(shape.N, shape.K, device=device, dtype=dtype).div_(shape.K**0.5)
        for block in BLOCKS:
            tile = (block[0], block[1] or shape.K)
            for sparsity in SPARSITIES:
                mask = random_mask(shape, tile, sparsity, device) if block[1] else channels(shape, sparsity, device)
                masked = weight * expand(mask, tile, shape).to(dtype)
                baselines = dense(masked, x, ("fwd",))
                yield from linear_cases("layer", shape, tile, sparsity, [*baselines, *formats(masked, x, tile)])


def channels(shape: Shape, sparsity: float, device: str) -> Tensor:
    """Return a random mask (N, 1), one value per output channel."""
    keep = max(1, round(shape.N * (1 - sparsity)))
    mask = torch.zeros(shape.N, 1, device=device)
    mask[torch.randperm(shape.N, device=device)[:keep]] = 1.0
    return mask


def formats(weight: Tensor, x: Tensor, tile: tuple[int, int]) -> list[Provider]:
    """Return every sparse format that can hold the weight on this device; variants of ELL apart."""
    variants = [(name, format, {}) for name, format in FORMATS.items() if name not in ("dense", "packed", "ell")]
    variants += [(f"ell-{engine}", ELL, {"engine": engine}) for engine in ("onednn", "bmm") if x.device.type == "cpu"]
    density = (weight != 0).double().mean().item()
    found = []
    for name, format, options in variants:
        layer = build(format, weight, tile, options)
        if layer is not None:
            found.append(Provider(name, layer.linear, (x,), lambda x: F.linear(x, weight.double()), density))
    return found


def build(format: type[Format], weight: Tensor, tile: tuple[int, int], options: dict) -> Format | None:
    """Store the weight in a format; None where the format says that it cannot hold it."""
    try:
        return format.from_dense(weight, tile, **options)
    except ValueError:
        return None
