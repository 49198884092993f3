"""Find the tensors in a model's inputs and outputs."""

from torch import Tensor
from torch.utils._pytree import tree_map

from smart_kernels.convert.modules import tensors_in


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
