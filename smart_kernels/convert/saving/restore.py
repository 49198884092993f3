"""From the files of a saved model back to dense tensors, every entry checked."""

import json
from collections.abc import Sequence
from pathlib import Path

import safetensors
from safetensors.torch import load_file
from torch import Tensor, nn

from smart_kernels.convert.compress import Report
from smart_kernels.convert.modules import LAYERS, switch_fast_paths_
from smart_kernels.formats import FORMATS, Format
from smart_kernels.nn import Pieces, split_, weight_shape

VERSION = 1
KEYS = {"version", "layers", "tied", "split_attention", "report"}


def read(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """Read ``config.json`` and the tensors."""
    try:
        config = json.loads((path / "config.json").read_text())
        tensors = load_file(path / "model.safetensors")
    except (OSError, ValueError, safetensors.SafetensorError) as error:  # ValueError: neither JSON nor UTF-8
        raise ValueError(
            f"{path} must hold config.json and model.safetensors as save() writes them: {error}"
        ) from error
    if not isinstance(config, dict) or config.get("version") != VERSION:
        got = config.get("version") if isinstance(config, dict) else config
        raise ValueError(f"config.json must be of version {VERSION}, got {got}")
    if missing := KEYS - config.keys():
        raise ValueError(f"config.json must hold {sorted(KEYS)}, got it missing {missing}")
    return config, tensors


def reported(config: dict) -> Report:
    """Return the report in ``config.json``."""
    try:
        report = Report.from_dict(config["report"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"config.json must hold a report as save() writes it, got another: {error!r}") from error
    if unknown := {row.choice for row in report.rows} - FORMATS.keys():
        raise ValueError(f"layers must run as one of {list(FORMATS)}, got {sorted(unknown)}")
    return report


def fill(model: nn.Module, config: dict, tensors: dict[str, Tensor]) -> None:
    """Put all tensors into the dense model."""
    state = dict(tensors)
    for row in config["report"]["rows"]:
        name = row["name"]
        entry = config["layers"].get(name)
        form = FORMATS.get(entry["stored"]) if entry else None
        if form is None or not form.saves:
            raise ValueError(f"layer {name} needs an entry that says how it is stored, got {entry}")
        layer = checked(submodule(model, name), name, row["shape"])
        keys = [f"{name}.{key}" for key in form.saves]
        if absent := [key for key in keys if key not in state]:
            raise ValueError(f"layer {name} is stored as {entry['stored']} and needs {absent}")
        weight = _dense(form, [state.pop(key) for key in keys], row)
        sharing = {submodule(model, each) for each in (name, *entry["shared"])}
        names = [each for each, module in model.named_modules(remove_duplicate=False) if module in sharing]
        state |= dict.fromkeys([f"{each}.weight" for each in names], _kernel(weight, layer))
    state |= {key: state[first] for key, first in config["tied"].items() if first in state}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the saved tensors must be those of the model: {error}") from error


def submodule(model: nn.Module, name: str) -> nn.Module:
    """Return the layer that a report names."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise ValueError(f"the model has no layer {name}, which the report names") from None


def checked(layer: nn.Module, name: str, shape: Sequence[int]) -> nn.Module:
    """Return the layer if it is a plain one of this (N, taps, C)."""
    if type(layer) not in LAYERS or list(weight_shape(layer)) != list(shape):
        raise ValueError(f"layer {name} must be a plain one of (N, taps, C) = {list(shape)}, got {layer}")
    return layer


def _dense(form: type[Format], tensors: list[Tensor], row: dict) -> Tensor:
    N, taps, C = row["shape"]
    try:
        return form.from_saved(tensors, (N, taps * C), taps).to_dense().detach()
    except (ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"layer {row['name']} is damaged: {error}") from error


def _kernel(weight: Tensor, layer: nn.Module) -> Tensor:
    if weight.dim() == layer.weight.dim():
        return weight
    return weight.unflatten(1, (*layer.kernel_size, -1)).permute(0, 3, 1, 2)


def split_attention(model: nn.Module, names: list[str]) -> None:
    """Split the attentions that were split when the model was saved."""
    modules = dict(model.named_modules(remove_duplicate=False))
    pieces: Pieces = {}
    for name in names:
        if name not in modules:
            raise ValueError(f"the model has no attention {name}, which was saved")
        if isinstance(modules[name], nn.MultiheadAttention):
            split_(modules[name], pieces)
    switch_fast_paths_(model)
