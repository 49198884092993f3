"""The shortcuts of torch's transformer encoders, which read weights without calling the layers that hold them."""

from torch import nn

from smart_kernels.nn import Sparse, SplitAttention

STAND_IN = {"activation_relu_or_gelu": 0, "use_nested_tensor": False}  # attribute -> the value that says no


def switch_fast_paths_(model: nn.Module) -> None:
    """Switch the shortcuts off where they would get round a sparse layer or a split attention, and elsewhere on again.

    - ``nn.TransformerEncoderLayer`` computes in one call from dense weights: off with a sparse layer in it. A split
      attention keeps it off by itself.
    - ``nn.TransformerEncoder`` makes nested tensors, which only that call takes: off with either in any of its layers.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            _switch(module, "activation_relu_or_gelu", _holds(module, Sparse))
        if isinstance(module, nn.TransformerEncoder):
            _switch(module, "use_nested_tensor", _holds(module, Sparse | SplitAttention))


def _holds(module: nn.Module, kinds) -> bool:
    return any(isinstance(each, kinds) for each in module.modules())


def _switch(module: nn.Module, name: str, off: bool) -> None:
    """Set the attribute to no, or back to what it was; that is kept in the module, so that copies know it."""
    kept = f"_dense_{name}"
    if off and getattr(module, name, None):
        module.__dict__[kept] = getattr(module, name)
        setattr(module, name, STAND_IN[name])
    elif not off and kept in module.__dict__:
        setattr(module, name, module.__dict__.pop(kept))
