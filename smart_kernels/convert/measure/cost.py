"""The cost of a whole model: multiplications, parameters, bytes, time."""

from dataclasses import dataclass

import torch
from torch import nn

from smart_kernels.convert.modules import call, evaluating
from smart_kernels.nn import Sparse

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Cost:
    """Of one forward on the example.

    Attributes:
        macs: multiply-accumulates of the Linears and convolutions; a sparse layer counts what it stores.
        parameters: numbers stored in Parameters, each once.
        nbytes: of Parameters and buffers, each once.
        ms: median time.
    """

    macs: int
    parameters: int
    nbytes: int
    ms: float | None = None

    def change(self, after: "Cost") -> str:
        """Return a line: before -> after."""
        return (
            f"{self.macs / 1e6:.1f} -> {after.macs / 1e6:.1f} million MACs, "
            f"{self.parameters / 1e6:.3f} -> {after.parameters / 1e6:.3f} million parameters, "
            f"{self.nbytes / 1e6:.2f} -> {after.nbytes / 1e6:.2f} MB, {self.ms:.3f} -> {after.ms:.3f} ms"
        )


def cost(model: nn.Module, example_input, ms: float | None = None) -> Cost:
    """Count one forward in eval mode."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}.values()
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(_macs(model, example_input), parameters, sum(t.numel() * t.element_size() for t in tensors), ms)


def _macs(model: nn.Module, example_input) -> int:
    counts = []

    def count(module, args, y):
        stored = module.format.values if isinstance(module, Sparse) else module.weight
        outputs = module.format.shape[0] if isinstance(module, Sparse) else module.weight.shape[0]
        counts.append(y.numel() // max(outputs, 1) * stored.numel())

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, (*LAYERS, Sparse))]
    try:
        with evaluating(model), torch.no_grad():
            call(model, example_input)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counts)
