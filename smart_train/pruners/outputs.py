"""Watch what layers put out while a model runs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from smart_kernels import Masked
from smart_train.masks import MaskedModel


@contextmanager
def watched(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``see(name, output)`` whenever a layer has run.

    Raises:
        ValueError: at the end, a layer has not run; attention reads weights without calling their layers.
    """
    seen = set()

    def hook(name: str):
        def forward(module, inputs, output):
            seen.add(name)
            see(name, output)

        return forward

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    missing = layers.keys() - seen
    if missing:
        raise ValueError(f"the outputs of all pruned layers must be seen, got none of {', '.join(sorted(missing))}")


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Put back the buffers of a model, such as the averages of a BatchNorm, when the block is done."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])


def channels_last(layer: nn.Module, values: Tensor) -> Tensor:
    """Return outputs of a layer, or their gradients, as (batch, positions, N)."""
    values = values.detach()
    values = values if isinstance(layer, nn.Linear) else values.movedim(1, -1)
    return values.reshape(len(values), -1, values.shape[-1])


def by_path(masked: MaskedModel) -> dict[str, Masked]:
    """Return all masked layers, each under the name of its scores, a slash and its own name."""
    return {f"{name}/{own}": layer for name, shared in masked.sharing.items() for own, layer in shared.items()}


def check_channels(title: str, masked: MaskedModel) -> None:
    """Raise ValueError where anything but whole channels is to be pruned."""
    others = [name for name, layer in masked.layers.items() if not layer.pattern.whole_channels]
    if others:
        raise ValueError(f"{title} must have patterns of whole channels, got others for {', '.join(others)}")
