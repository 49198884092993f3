"""GPT-2's ``Conv1D``, a Linear whose weight is transposed."""

from collections.abc import Collection

from torch import nn

from smart_kernels.convert.modules import swap_

MARK = "was_conv1d"


def linearize_(model: nn.Module, names: Collection[str] | None = None) -> list[str]:
    """Make every ``Conv1D`` of transformers, or those of ``names``, an ``nn.Linear`` that computes the same, in place.

    Then they can be pruned like all others: ``mask_`` leaves a ``Conv1D`` dense. Call it before an optimizer is made;
    modules stay the same objects.

    Returns:
        The names of the layers.

    Raises:
        ValueError: a name is that of something else.
    """
    from transformers.pytorch_utils import Conv1D

    modules = dict(model.named_modules())
    chosen = [name for name, module in modules.items() if isinstance(module, Conv1D)] if names is None else list(names)
    for name in chosen:
        if not isinstance(modules.get(name), Conv1D):
            raise ValueError(f"{name} must be a Conv1D of transformers, got {type(modules.get(name)).__name__}")
    swap_(model, {modules[name]: _linear(modules[name]) for name in chosen})
    return chosen


def from_conv1d(model: nn.Module) -> list[str]:
    """Return the names of the layers that ``linearize_`` has changed."""
    return [name for name, module in model.named_modules() if getattr(module, MARK, False)]


def _linear(conv: nn.Module) -> nn.Linear:
    rows, columns = conv.weight.shape
    linear = nn.Linear(rows, columns, device="meta")
    linear.weight = nn.Parameter(conv.weight.detach().T.contiguous(), conv.weight.requires_grad)
    linear.bias = conv.bias
    linear.__dict__[MARK] = True
    return linear.train(conv.training)
