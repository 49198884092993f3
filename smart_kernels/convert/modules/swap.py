"""Replacing layers inside a model."""

from torch import nn


def swap_(model: nn.Module, swaps: dict[nn.Module, nn.Module]) -> None:
    """Replace modules wherever they are used."""
    for parent in list(model.modules()):
        changed = False
        for name, child in parent._modules.items():
            if child in swaps:
                parent._modules[name] = swaps[child]
                changed = True
        if changed and isinstance(parent, nn.TransformerEncoderLayer):
            parent.activation_relu_or_gelu = 0  # the fast path would read dense weights
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and not module.layers[0].activation_relu_or_gelu:
            module.use_nested_tensor = False  # only the fast path takes nested tensors
