"""The end of a matrix product: ``activation(y + bias + residual)``."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
}


def finish(y: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str | None) -> Tensor:
    """Apply the epilogue to (..., N) sums.

    Args:
        y: (..., N).
        bias: (N,) or None.
        residual: shape of ``y`` or None; added before the activation.
        activation: a key of ``ACTIVATIONS`` or None.
    """
    y = y if bias is None else y + bias
    y = y if residual is None else y + residual
    return y if activation is None else ACTIVATIONS[activation](y)


def check_activation(activation: str | None) -> None:
    """Raise ``ValueError`` unless ``activation`` is known."""
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f"activation must be None or one of {', '.join(ACTIVATIONS)}, got {activation!r}")
