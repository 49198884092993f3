"""From the files of a saved model back to dense tensors, every entry checked."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smart_kernels.convert.compress import LayerReport, Report, Settings
from smart_kernels.convert.modules import LAYERS, switch_fast_paths_
from smart_kernels.formats import FORMATS, Format
from smart_kernels.nn import Pieces, SplitAttention, split_, weight_shape
from smart_kernels.patterns import parse
from smart_kernels.reference.common import ACTIVATIONS

from .schema import LAYER, REPORT


def reported(config: dict) -> Report:
    """Return the report in ``config.json``.

    Raises:
        ValueError: it is not one that ``save`` writes.
    """
    try:
        REPORT(config["report"], "report")
        report = Report.from_dict(config["report"])
        settings = report.settings
        pattern = settings.get("pattern")
        Settings(pattern and parse(pattern), settings.get("backends"), settings.get("policy", "speed"))
    except ValueError as error:
        raise ValueError(f"config.json must hold a report as save() writes it, got another: {error}") from error
    if unknown := {row.activation for row in report.rows} - {None, *ACTIVATIONS}:
        raise ValueError(f"activations must be out of {sorted(ACTIVATIONS)}, got {sorted(unknown)}")
    if unknown := {row.choice for row in report.rows} - FORMATS.keys():
        raise ValueError(f"layers must run as one of {list(FORMATS)}, got {sorted(unknown)}")
    return report


def fill(model: nn.Module, config: dict, tensors: dict[str, Tensor]) -> None:
    """Put all tensors into the dense model, or none.

    Raises:
        ValueError: the entries of ``config.json``, the tensors and the model do not fit each other.
    """
    state = dict(tensors)
    rows = config["report"]["rows"]
    for row in rows:
        weights = _weights(model, row, _entry(config["layers"], row), state)
        state |= weights
    if unknown := config["layers"].keys() - {row["name"] for row in rows}:
        raise ValueError(f"each entry in layers must have its line in the report, got also {sorted(unknown)}")
    for key, first in config["tied"].items():
        if first not in tensors or key in state:
            raise ValueError(f"{key} must be tied to a tensor that is saved and not be saved itself, got {first}")
        state[key] = tensors[first]
    _check_state(model.state_dict(), state)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the saved tensors must be those of the model: {error}") from error


def _entry(layers: dict, row: dict) -> dict:
    """Return how a layer is stored."""
    entry = layers.get(row["name"])
    if entry is not None:
        LAYER(entry, f"layers.{row['name']}")
    form = FORMATS.get(entry["stored"]) if entry else None
    if form is None or not form.saves or entry["shared"] != row["shared"]:
        raise ValueError(f"layer {row['name']} needs an entry that says how it is stored, got {entry}")
    return entry


def _weights(model: nn.Module, row: dict, entry: dict, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the stored tensors of a layer out of ``state``; return its weight under all of its names."""
    name = row["name"]
    form = FORMATS[entry["stored"]]
    layers = [checked(submodule(model, each), each, row["shape"]) for each in (name, *entry["shared"])]
    keys = [f"{name}.{key}" for key in form.saves]
    if absent := [key for key in keys if key not in state]:
        raise ValueError(f"layer {name} is stored as {entry['stored']} and needs {absent}")
    weight = dense_kernel(form, [state.pop(key) for key in keys], LayerReport.from_dict(row), layers[0])
    names = [each for each, module in model.named_modules(remove_duplicate=False) if module in layers]
    return dict.fromkeys([f"{each}.weight" for each in names], weight)


def _check_state(own: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Raise ValueError unless both have the same keys, with the same shapes and kinds of numbers."""
    if own.keys() != state.keys():
        missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        raise ValueError(f"the saved tensors must be those of the model, got {missing} missing, {unexpected} besides")
    for key, tensor in state.items():
        if tensor.shape != own[key].shape or _kind(tensor) != _kind(own[key]):
            must, got = (f"{tuple(t.shape)} {t.dtype}" for t in (own[key], tensor))
            raise ValueError(f"{key} must be like the {must} of the model, got {got}")


def _kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex(), tensor.dtype == torch.bool


def submodule(model: nn.Module, name: str) -> nn.Module:
    """Return the layer that a report names."""
    try:
        return model.get_submodule(name)
    except AttributeError:  # no such name, or one of something else
        raise ValueError(f"the model has no layer {name}, which the report names") from None


def checked(layer: nn.Module, name: str, shape: Sequence[int]) -> nn.Module:
    """Return the layer if it is a plain one of this (N, taps, C)."""
    if type(layer) not in LAYERS or list(weight_shape(layer)) != list(shape):
        raise ValueError(f"layer {name} must be a plain one of (N, taps, C) = {list(shape)}, got {layer}")
    return layer


def dense_kernel(form: type[Format], tensors: list[Tensor], row: LayerReport, layer: nn.Module) -> Tensor:
    """Return the dense weight of a plain layer from the tensors that ``form`` saves.

    Raises:
        ValueError: they are damaged.
    """
    N, taps, C = row.shape
    try:
        weight = form.from_saved(tensors, (N, taps * C), taps).to_dense().detach()
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        raise ValueError(f"layer {row.name} is damaged: {error}") from error
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
        elif not isinstance(modules[name], SplitAttention):
            raise ValueError(f"{name} must be an attention, which was saved, got {type(modules[name]).__name__}")
    switch_fast_paths_(model)
