"""``warmup``: everything that happens at a first call happens now."""

from collections.abc import Iterable

import torch
from torch import nn

from smart_kernels.convert.modules import evaluating
from smart_kernels.nn import Sparse, SparseLinear


def warmup(model: nn.Module, shapes: Iterable[int | tuple[int, ...]]) -> None:
    """Run the forward of every sparse layer once per shape: kernels are tuned, weights packed, code is compiled.

    Tuning times kernels, which a CUDA graph cannot capture: call this before. Triton keeps what it finds in its cache.

    Args:
        model: compressed, on its device.
        shapes: per entry, M rows of input that every sparse linear layer gets, or the shape of a floating-point input
            of the whole model, which is then called once in evaluation mode.

    Raises:
        ValueError: only M is given for a model with sparse convolutions, whose sizes do not follow from it.
    """
    device, dtype = next((p.device, p.dtype) for p in model.parameters() if p.is_floating_point())
    with evaluating(model), torch.no_grad():
        for shape in shapes:
            if isinstance(shape, int):
                _rows(model, shape)
            else:
                model(torch.ones(shape, device=device, dtype=dtype))
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rows(model: nn.Module, M: int) -> None:
    for name, layer in model.named_modules():
        if isinstance(layer, SparseLinear):
            values = next(layer.format.parameters())
            layer(torch.ones(M, layer.in_features, device=values.device, dtype=values.dtype))
        elif isinstance(layer, Sparse):
            raise ValueError(f"warmup needs the shape of the model's input for the convolution {name}, got M = {M}")
