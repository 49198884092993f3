"""Pruned models on disk: ``model.safetensors`` holds what is kept, ``config.json`` how it was chosen to run.

A layer is stored in the smallest form, whatever it runs as: a layer that stays dense in memory is still sparse on disk.
"""

from pathlib import Path

import safetensors
import torch
from torch import Tensor, nn

from smart_kernels.convert.channels import noted, noted_numbers
from smart_kernels.convert.compress import LayerReport, Report, explaining_groups
from smart_kernels.convert.modules import Folded
from smart_kernels.formats import FORMATS, Format, Zeros
from smart_kernels.nn import LiveNorm, Sparse, SplitAttention, matrix, weight_shape

from .files import VERSION, write
from .restore import checked, submodule


def save(model: nn.Module, directory: str | Path, report: Report) -> None:
    """Write a model that ``compress_`` returned ``report`` for.

    Under ``<layer>.`` are the tensors that the smallest form of its weight ``saves``, see ``Format``; all else is under
    its own name. A model that was saved there before is replaced, whole or not at all.

    Raises:
        ValueError: the report is that of another model, norms are over their live channels alone, or the directory
            holds files of such names that somebody else wrote, Hugging Face for one.
    """
    write(Path(directory), *gathered(model, report))


def gathered(model: nn.Module, report: Report) -> tuple[dict, dict[str, Tensor]]:
    """Return what ``config.json`` says of a compressed model, and its tensors, on the CPU.

    Raises:
        ValueError: the report is that of another model, or norms are over their live channels alone.
    """
    _check_norms(model)
    layers: dict[str, dict] = {}
    tensors: dict[str, Tensor] = {}
    for row in report.rows:
        form = _smallest(checked(_plain(submodule(model, row.name)), row.name, row.shape), row)
        layers[row.name] = {"stored": form.name, "shared": list(row.shared)}
        state = form.state_dict()
        tensors |= {f"{row.name}.{key}": state[key] for key in form.saves}
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
    if numbers := noted_numbers(model):
        config["numbers"] = numbers
    return config, {key: tensor.detach().cpu().contiguous() for key, tensor in {**rest, **tensors}.items()}


def _check_norms(model: nn.Module) -> None:
    norms = [name for name, module in model.named_modules() if isinstance(module, LiveNorm)]
    if norms:
        raise ValueError(
            f"a file holds plain norms, got {', '.join(norms)} over live channels alone: call "
            "slim_(model, example_input) after finalize(), and compress_ after it"
        )


def _smallest(layer: nn.Linear | nn.Conv2d, row: LayerReport) -> Format:
    """Return the weight in the form with the fewest bytes."""
    weight = matrix(layer)
    taps = weight_shape(layer).taps
    zeros = Zeros(weight, taps, row.tile, explaining_groups(weight, taps))
    forms = []
    for format in FORMATS.values():
        if format.saves:
            try:
                forms.append(format.from_zeros(zeros))
            except ValueError:
                continue
    return min(forms, key=lambda form: form.nbytes)


def _plain(layer: nn.Module) -> nn.Module:
    return layer.to_dense() if isinstance(layer, Sparse) else layer


def _rest(model: nn.Module, layers: list[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return all but the weights of ``layers``; a tensor with several names once, and its other names -> that one."""
    modules = {model.get_submodule(name) for name in layers}
    aliases = [name for name, module in model.named_modules(remove_duplicate=False) if module in modules]
    skipped = tuple(f"{name}.{part}" for name in aliases for part in ("weight", "format."))
    rest: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    names: dict[int, str] = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        if key.startswith(skipped):
            continue
        first = names.setdefault(id(tensor), key)
        if first == key:
            rest[key] = tensor
        else:
            tied[key] = first
    return rest, tied
