"""A model that keeps its tensors where filling it fails."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from smart_kernels.convert.modules import whole_or_not_at_all


@contextmanager
def untouched_on_error(model: nn.Module) -> Iterator[None]:
    """Put modules, tensors and their numbers back as they were, should an error leave the block.

    The numbers wait in the memory of the CPU.
    """
    before = [(tensor, tensor.data, _copy(tensor)) for tensor in (*model.parameters(), *model.buffers())]
    try:
        with whole_or_not_at_all(model):
            yield
    except BaseException:
        with torch.no_grad():
            for tensor, data, numbers in before:
                tensor.data = data
                if numbers is not None:
                    data.copy_(numbers)
        raise


def _copy(tensor: torch.Tensor) -> torch.Tensor | None:
    return None if tensor.is_meta else tensor.detach().to("cpu", copy=True)
