"""What a model returns, as tensors, to be compared."""

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from smart_kernels.convert.modules import call, evaluating, tensors_in


@torch.no_grad()
def outputs_of(model: nn.Module, example_input) -> list[Tensor]:
    """Run the model in eval mode and return copies of the tensors that it gives.

    Random numbers are the same at every call, so that a model that samples agrees with itself.

    Raises:
        ValueError: its output shows no tensor, so nothing of it could be compared.
    """
    devices = {t.device.index or 0 for t in (*model.parameters(), *model.buffers()) if t.device.type == "cuda"}
    with torch.random.fork_rng(sorted(devices)), evaluating(model):
        for generator in (torch.default_generator, *(torch.cuda.default_generators[i] for i in devices)):
            generator.manual_seed(0)
        return [t.clone() for t in some_tensor(call(model, copied(example_input)))]


def copied(example_input):
    """Copy the tensors of an input, into which a model may write."""
    return tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, example_input)


def some_tensor(output) -> list[Tensor]:
    """Return ``tensors_in`` the output of a model.

    Raises:
        ValueError: there is none.
    """
    tensors = list(tensors_in(output))
    if not tensors:
        raise ValueError(f"the model's output must show a tensor, for its value to be compared, got {_named(output)}")
    return tensors


def _named(output) -> str:
    return "None" if output is None else f"an object of {type(output).__module__}.{type(output).__qualname__}"
