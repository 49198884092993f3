"""Layers between ``from_pretrained``'s two steps: tensors of a saved form, with the names and sizes that a file has."""

import copy

import torch
from torch import nn

from smart_kernels.convert import Report
from smart_kernels.convert.modules import swap_
from smart_kernels.convert.saving import checked, dense_kernel, submodule
from smart_kernels.formats import FORMATS


class Stored(nn.Module):
    """A place for the tensors of one weight, under ``format``, and for the bias; it computes nothing."""

    def __init__(self, tensors: dict[str, torch.Tensor], bias: nn.Parameter | None):
        super().__init__()
        self.format = nn.Module()
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                self.format.register_parameter(name, nn.Parameter(tensor))
            else:
                self.format.register_buffer(name, tensor)
        self.register_parameter("bias", bias)

    @property
    def weight(self) -> torch.Tensor:
        """Return nothing, for ``_init_weights`` to leave alone; it comes where any weight is missing, or tied."""
        tensor = torch.empty(0)
        tensor._is_hf_initialized = True
        return tensor


def stored_keys(layers: dict[str, dict]) -> dict[str, str]:
    """Return, for the tensors that ``save`` names ``<layer>.<tensor>``, ``<layer>.format.<tensor>``."""
    parts = [(name, part) for name, entry in layers.items() for part in FORMATS[entry["stored"]].saves]
    return {f"{name}.{part}": f"{name}.format.{part}" for name, part in parts}


def store_(model: nn.Module, report: Report, tensors: dict[str, list]) -> dict[str, nn.Module]:
    """Make the layers of a report places for what is stored of them.

    Args:
        model: dense, without values.
        report: names the layers.
        tensors: key -> [sizes, dtype].

    Returns:
        The plain layers, without values, by name.
    """
    plain = {}
    for row in report.rows:
        for name in (row.name, *row.shared):
            layer = checked(submodule(model, name), name, row.shape)
            plain[name] = copy.deepcopy(layer)
            start = f"{name}.format."
            own = {key.removeprefix(start): _empty(*value) for key, value in tensors.items() if key.startswith(start)}
            swap_(model, {layer: Stored(own, layer.bias)})
    return plain


def fill_stored_(model: nn.Module, report: Report, saved: dict, plain: dict[str, nn.Module]) -> None:
    """Make them plain layers again, with the weights that have been stored in them.

    Raises:
        ValueError: what was stored is damaged.
    """
    for row in report.rows:
        form = FORMATS[saved["layers"][row.name]["stored"]]
        first = model.get_submodule(row.name)
        weight = dense_kernel(form, [getattr(first.format, part) for part in form.saves], row, plain[row.name])
        parameter = nn.Parameter(weight.to(plain[row.name].weight.dtype).contiguous())  # the one that was asked for
        for name in (row.name, *row.shared):
            layer = plain[name]
            layer.weight = parameter
            layer.bias = model.get_submodule(name).bias
            swap_(model, {model.get_submodule(name): layer})


def _empty(sizes: list[int], dtype: str) -> torch.Tensor:
    return torch.empty(sizes, dtype=getattr(torch, dtype), device="meta")
