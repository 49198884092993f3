"""From the files of a saved model back to dense tensors, every entry checked."""

import json
from pathlib import Path

import safetensors
from safetensors.torch import load_file
from torch import Tensor, nn

from smart_kernels.formats import FORMATS
from smart_kernels.nn import SplitAttention

from .compress import LAYERS
from .plan import weight_shape

VERSION = 1
STORED = {
    "dense": ("values",),
    "compact": ("values", "rows", "cols"),
    "bsr": ("values", "crow_indices", "col_indices"),
    "nm": ("values", "indices", "kept"),
}


def read(path: Path) -> tuple[dict, dict[str, Tensor]]:
    try:
        config = json.loads((path / "config.json").read_text())
        tensors = load_file(path / "model.safetensors")
    except (OSError, json.JSONDecodeError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{path} must hold config.json and model.safetensors as save() writes them: {error}"
        ) from error
    missing = {"version", "layers", "tied", "split_attention", "report"} - config.keys()
    if missing or config["version"] != VERSION:
        raise ValueError(f"config.json must be of version {VERSION}, got {config.get('version')}, missing {missing}")
    return config, tensors


def fill(model: nn.Module, config: dict, tensors: dict[str, Tensor]) -> None:
    """Put all tensors into the dense model."""
    state = dict(tensors)
    for row in config["report"]["rows"]:
        name, entry = row["name"], config["layers"].get(row["name"])
        if entry is None or entry["stored"] not in STORED:
            raise ValueError(f"layer {name} needs an entry that says how it is stored, got {entry}")
        layer = _layer(model, name, row)
        keys = [f"{name}.{key}" for key in STORED[entry["stored"]]]
        if absent := [key for key in keys if key not in state]:
            raise ValueError(f"layer {name} is stored as {entry['stored']} and needs {absent}")
        weight = _dense(entry["stored"], [state.pop(key) for key in keys], row)
        for each in (name, *entry["shared"]):
            state[f"{each}.weight"] = _kernel(weight, layer)
    state |= {key: state[first] for key, first in config["tied"].items() if first in state}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the saved tensors must be those of the model: {error}") from error


def _layer(model: nn.Module, name: str, row: dict) -> nn.Module:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        raise ValueError(f"the model has no layer {name}, which was saved") from None
    if type(layer) not in LAYERS or list(weight_shape(layer)) != row["shape"]:
        raise ValueError(f"layer {name} must be a plain one of (N, taps, C) = {row['shape']}, got {layer}")
    return layer


def _dense(stored: str, tensors: list[Tensor], row: dict) -> Tensor:
    N, taps, C = row["shape"]
    try:
        if stored == "dense":
            return tensors[0].view(N, taps * C)
        return FORMATS[stored](*tensors, (N, taps * C), taps).to_dense().detach()
    except (ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"layer {row['name']} is damaged: {error}") from error


def _kernel(weight: Tensor, layer: nn.Module) -> Tensor:
    if weight.dim() == layer.weight.dim():
        return weight
    return weight.unflatten(1, (*layer.kernel_size, -1)).permute(0, 3, 1, 2)


def split_attention(model: nn.Module, names: list[str]) -> None:
    for name in names:
        parent, _, child = name.rpartition(".")
        try:
            owner = model.get_submodule(parent)
            attention = getattr(owner, child)
        except AttributeError:
            raise ValueError(f"the model has no attention {name}, which was saved") from None
        if type(attention) is nn.MultiheadAttention:
            setattr(owner, child, SplitAttention.from_attention(attention))
