"""Layers whose tensors have other sizes than they were made with."""

import torch
from torch import Tensor, nn

from smart_kernels.nn import TRANSPOSED, LiveNorm

Sizes = dict[str, list[int]]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def select_(tensor: Tensor, dim: int, index: Tensor) -> None:
    """Keep what ``index`` says along ``dim``; the tensor stays the same object, in its memory format."""
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    selected = tensor.data.index_select(dim, index.to(tensor.device))
    tensor.data = selected.contiguous(memory_format=torch.channels_last) if last else selected
    tensor.grad = None


def resize_(model: nn.Module) -> None:
    """Make the sizes that layers keep as numbers those of their tensors."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, CONVOLUTIONS) and module.groups == 1:
            module.out_channels, module.in_channels = weight.shape[:2]
        elif isinstance(module, CONVOLUTIONS):
            module.groups = len(weight) * module.groups // module.out_channels
            module.out_channels = len(weight)
            module.in_channels = weight.shape[1] * module.groups
        elif isinstance(module, TRANSPOSED) and module.groups == 1:
            module.in_channels, module.out_channels = weight.shape[:2]
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, BATCHNORMS) and module.running_mean is not None:
            module.num_features = len(module.running_mean)
        elif isinstance(module, nn.PReLU):
            module.num_parameters = len(weight)
        elif isinstance(module, nn.Embedding):
            module.embedding_dim = weight.shape[1]
        elif isinstance(module, nn.RNNBase):
            module.input_size = module.weight_ih_l0.shape[1]
        elif weight is not None and hasattr(module, "normalized_shape"):
            module.normalized_shape = tuple(weight.shape)
        if isinstance(module, LiveNorm):
            module.settle()


def sizes(model: nn.Module) -> Sizes:
    """Return the sizes of all parameters and buffers by name."""
    return {name: list(t.shape) for name, t in (*model.named_parameters(), *model.named_buffers())}


def note_(model: nn.Module, slimmed: Sizes) -> None:
    """Remember which tensors have become smaller, for ``save``."""
    model.__dict__["_slimmed"] = {**noted(model), **slimmed}


def noted(model: nn.Module) -> Sizes:
    """Return what ``note_`` has noted."""
    return model.__dict__.get("_slimmed", {})


def fit_(model: nn.Module, slimmed: Sizes) -> None:
    """Cut a dense model to the sizes of a slimmed one; what its tensors hold has to come from elsewhere.

    Raises:
        ValueError: a tensor is not there, or smaller than it should become.
    """
    tensors = dict((*model.named_parameters(), *model.named_buffers()))
    for name, size in slimmed.items():
        old = list(tensors[name].shape) if name in tensors else None
        if old is None or len(old) != len(size) or any(a < b for a, b in zip(old, size, strict=True)):
            raise ValueError(f"{name} was slimmed to {size} and must be at least as large in the model, got {old}")
        for dim, count in enumerate(size):
            select_(tensors[name], dim, torch.arange(count))
    resize_(model)
    note_(model, slimmed)
