"""``warmup``: everything that happens at a first call happens now."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smart_kernels.convert.modules import evaluating
from smart_kernels.kernels.common import Compiler, compiling
from smart_kernels.nn import Masked, MaskedLinear, Sparse, SparseLinear

COMPILED_ON = ("cuda",)  # devices whose kernels Triton compiles


def warmup(model: nn.Module, shapes: Iterable[int | tuple[int, ...]]) -> None:
    """Run every sparse or masked layer once per shape: kernels are compiled and tuned, weights packed, code compiled.

    On a GPU the kernels of all layers and shapes are compiled side by side before the first of them runs. Of a model
    that is still masked the backward is run, too, as one step of training will; call it under the autocast of the
    training, after the pruner's first step. Gradients and modes stay as they are, no statistics are updated.

    Tuning times kernels, which a CUDA graph cannot capture: call this before, with the shape that is captured and under
    the same autocast. Triton keeps what it finds in its cache. A training step needs its optimizer's state, too: take
    three steps before one is captured.

    Args:
        model: compressed or masked, on its device.
        shapes: per entry, M rows of input that every such linear layer gets, or the shape of a floating-point input
            of the whole model, which is then called once in evaluation mode.

    Raises:
        ValueError: only M is given for a model with such convolutions, whose sizes do not follow from it.
    """
    shapes = list(shapes)
    device = next(p.device for p in model.parameters() if p.is_floating_point())
    with evaluating(model):
        if device.type in COMPILED_ON:
            with compiling() as compiler, Uncomputed(compiler):
                _run(model, shapes)
        _run(model, shapes)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Uncomputed(TorchDispatchMode):
    """While kernels are compiled instead of launched, what an operator has not computed is 0, not what memory held.

    torch hands the mode on to the threads of a backward, whose launches are compiled, too. Layers do under it what they
    will do without it.
    """

    unseen = True

    def __init__(self, compiler: Compiler):
        super().__init__()
        self.compiler = compiler

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = self.compiler.submitted
        with self.compiler.taking():
            result = func(*args, **(kwargs or {}))
        if self.compiler.submitted > before:
            for tensor in filter(torch.is_tensor, tree_leaves(result)):
                tensor.zero_()
        return result


def _run(model: nn.Module, shapes: list[int | tuple[int, ...]]) -> None:
    device, dtype = next((p.device, p.dtype) for p in model.parameters() if p.is_floating_point())
    for shape in shapes:
        if isinstance(shape, int):
            _rows(model, shape)
        else:
            _call(model, model, torch.ones(shape, device=device, dtype=dtype))


def _rows(model: nn.Module, M: int) -> None:
    for name, layer in model.named_modules():
        if isinstance(layer, SparseLinear | MaskedLinear):
            values = next(p for p in layer.parameters() if p.is_floating_point())
            run = partial(_finished, layer) if getattr(layer, "epilogue", None) else layer
            _call(run, layer, torch.ones(M, layer.in_features, device=values.device, dtype=values.dtype))
        elif isinstance(layer, Sparse | Masked):
            raise ValueError(f"warmup needs the shape of the model's input for the convolution {name}, got M = {M}")


def _finished(layer: SparseLinear, x: Tensor) -> Tensor:
    """Run a layer with what follows it in its model."""
    other = x.new_ones(len(x), layer.out_features) if layer.epilogue.residual else None
    return layer.finished(x, layer.epilogue.activation, other)


def _call(run: Callable[[Tensor], object], model: nn.Module, x: Tensor) -> None:
    """Run a forward, and the backward of a model that is masked."""
    learns = any(isinstance(module, Masked) for module in model.modules())
    with torch.set_grad_enabled(learns):
        outputs = [y for y in tree_leaves(run(x)) if torch.is_tensor(y) and y.requires_grad]
    if outputs:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        torch.autograd.grad(outputs, parameters, [torch.ones_like(y) for y in outputs], allow_unused=True)
