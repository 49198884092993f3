"""Pruned models on disk: ``model.safetensors`` holds what is kept, ``config.json`` how it was chosen to run.

A layer is stored in the smallest form, whatever it runs as: a layer that stays dense in memory is still sparse on disk.
"""

import json
import logging
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from smart_kernels.convert.channels.resize import fit_, noted
from smart_kernels.convert.compress.compress import compress_
from smart_kernels.convert.compress.nm import groups_of
from smart_kernels.convert.compress.notes import absent
from smart_kernels.convert.compress.plan import sparse_format, wrap
from smart_kernels.convert.compress.report import Report, Row
from smart_kernels.convert.compress.settings import Settings
from smart_kernels.convert.measure.timing import device_name
from smart_kernels.convert.modules.fold import Folded, refold_
from smart_kernels.convert.modules.swap import swap_
from smart_kernels.formats import BSR, Compact, Dense, Format, SemiStructured
from smart_kernels.formats.resident import KERNELS
from smart_kernels.nn import SplitAttention
from smart_kernels.nn.sparse_base import Sparse, matrix, weight_shape

from .restore import VERSION, checked, fill, read, reported, split_attention, submodule

logger = logging.getLogger("smart_kernels")


def save(model: nn.Module, directory: str | Path, report: Report) -> None:
    """Write a model that ``compress_`` returned ``report`` for.

    Under ``<layer>.``: ``values``, ``crow_indices``, ``col_indices`` of a block sparse weight; ``values``, ``rows``,
    ``cols`` of one without its dead channels; ``values``, ``indices``, ``kept`` of n:m; ``values`` of a
    dense one. All else is under its own name.

    Raises:
        ValueError: the report is that of another model.
    """
    layers, tensors = {}, {}
    for row in report.rows:
        form = _smallest(checked(_plain(submodule(model, row.name)), row.name, row.shape), row)
        layers[row.name] = {"stored": form.name, "shared": list(row.shared)}
        tensors |= {f"{row.name}.{key}": tensor for key, tensor in form.state_dict().items()}
    rest, tied = _rest(model, [name for row in report.rows for name in (row.name, *row.shared)])
    config = {
        "version": VERSION,
        "layers": layers,
        "tied": tied,
        "slimmed": noted(model),
        "split_attention": [name for name, m in model.named_modules() if isinstance(m, SplitAttention)],
        "folded": [name for name, m in model.named_modules() if isinstance(m, Folded)],
        "report": report.to_dict(),
        "versions": {"torch": torch.__version__, "safetensors": safetensors.__version__},
    }
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in {**rest, **tensors}.items()}
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load(model: nn.Module, directory: str | Path, example_input=None, rechoose: bool | None = None) -> Report:
    """Rebuild a saved model in place, in a fresh dense one of the same architecture; one that was slimmed shrinks it.

    Args:
        model: dense, on the device it will run on.
        directory: what ``save`` wrote.
        example_input: as for ``compress_``; needed to choose again.
        rechoose: measure again, with the pattern, backends and policy of the saved choice; default: where the device
            is another one, or lacks what was chosen, and ``example_input`` is given. Without it, the saved choices
            stay, as far as the device has them.

    Returns:
        The report: the saved one, or the new one.

    Raises:
        ValueError: the files do not fit the model or each other, or ``rechoose`` without ``example_input``.
    """
    config, tensors = read(Path(directory))
    report = reported(config)
    first = next(model.parameters())
    here, layouts = first.device, {row.options.get("layout") for row in report.rows}
    kernels = [(layout, first.dtype) for layout in layouts if layout in KERNELS]
    device, lacking = device_name(here), absent(tuple(row.choice for row in report.rows), here, kernels)
    if rechoose is None:
        rechoose = bool(device != report.device or lacking) and example_input is not None
    if rechoose and example_input is None:
        raise ValueError("rechoose=True measures the layers and needs example_input, got None")
    if device != report.device and not rechoose:
        logger.warning(
            "backends were chosen on %s, this is %s: pass example_input to choose again", report.device, device
        )
    split_attention(model, config["split_attention"])
    fit_(model, config.get("slimmed", {}))
    biases = {key.removesuffix(".bias") for key in (*tensors, *config["tied"]) if key.endswith(".bias")}
    refold_(model, config.get("folded", []), biases)
    fill(model, config, tensors)
    if rechoose:
        return compress_(model, example_input, **Settings.arguments(report.settings, here))
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        model.to(memory_format=torch.channels_last)
    swap_(model, {k: v for row in report.rows for k, v in _runtime(model, row).items()})
    return report


def _smallest(layer: nn.Module, row: Row) -> Format:
    """The form with the fewest bytes."""
    weight, taps = matrix(layer), weight_shape(layer).taps
    forms = [Dense.from_dense(weight, (1, 1), taps=taps), Compact.from_dense(weight, (1, 1), taps=taps)]
    if row.tile is not None:
        forms.append(BSR.from_dense(weight, row.tile, taps=taps))
    if groups := groups_of(layer, None):
        forms.append(SemiStructured.from_dense(weight, (1, 1), taps=taps, **groups._asdict()))
    return min(forms, key=lambda form: form.nbytes)


def _plain(layer: nn.Module) -> nn.Module:
    return layer.to_dense() if isinstance(layer, Sparse) else layer


def _rest(model: nn.Module, layers: list[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All but the weights of ``layers``; a tensor with several names once, and its other names -> that one."""
    skipped = tuple(f"{name}.{part}" for name in layers for part in ("weight", "format."))
    rest, tied, names = {}, {}, {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        if key.startswith(skipped):
            continue
        first = names.setdefault(id(tensor), key)
        if first == key:
            rest[key] = tensor
        else:
            tied[key] = first
    return rest, tied


def _runtime(model: nn.Module, row: Row) -> dict[nn.Module, nn.Module]:
    """What replaces the layers of a row; nothing where the device has no such format."""
    layer = model.get_submodule(row.name)
    if row.choice == "dense":
        return {}
    try:
        form = sparse_format(layer, row.choice, row.tile, **row.options)
    except ValueError as error:
        logger.warning("%s stays dense: %s", row.name, error)
        return {}
    return {each: wrap(form, each) for each in map(model.get_submodule, (row.name, *row.shared))}
