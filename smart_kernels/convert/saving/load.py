"""From the files of a saved model to one that runs as it was chosen to."""

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from smart_kernels.convert.channels import fit_, fit_numbers_
from smart_kernels.convert.compress import PLAIN, LayerReport, Report, Settings, compress_, fuse_
from smart_kernels.convert.measure import device_name
from smart_kernels.convert.modules import device_of, refold_, swap_, whole_or_not_at_all
from smart_kernels.formats import FORMATS, Zeros
from smart_kernels.nn import matrix, sparse_layer, weight_shape

from .bounded import most_text
from .files import read
from .restore import fill, reported, split_attention

logger = logging.getLogger("smart_kernels")


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
        ValueError: the files are damaged, or do not fit the model or each other, or ``rechoose`` without
            ``example_input``. The model is as it was then, values included, as after any other error; its values wait
            on the CPU.
    """
    with whole_or_not_at_all(model) as before:
        config, tensors = read(Path(directory), most_text(len(model.state_dict())))
        report = reported(config)
        rechoose = _rechooses(model, report, example_input, rechoose)
        before.keep(*model.parameters(), *model.buffers())
        _fill(model, config, tensors)
        if rechoose:
            return compress_(model, example_input, **Settings.arguments(report.settings, device_of(model)))
        if any(isinstance(module, nn.Conv2d) for module in model.modules()):
            model.to(memory_format=torch.channels_last)
        run_as_chosen_(model, report)
    return report


def run_as_chosen_(model: nn.Module, report: Report) -> None:
    """Make the layers of a dense model with zeros what a report has chosen, as far as the device has it."""
    swap_(model, {old: new for row in report.rows for old, new in _as_chosen(model, row).items()})
    fuse_(model, report.rows)


def shape_(model: nn.Module, config: dict, keys: Iterable[str]) -> None:
    """Give a fresh dense model the structure of a saved one.

    Args:
        config: of the saved one.
        keys: names of its tensors.
    """
    split_attention(model, config["split_attention"])
    fit_(model, config.get("slimmed", {}))
    fit_numbers_(model, config.get("numbers", {}))
    biases = {key.removesuffix(".bias") for key in (*keys, *config["tied"]) if key.endswith(".bias")}
    refold_(model, config.get("folded", []), biases)


def _rechooses(model: nn.Module, report: Report, example_input, rechoose: bool | None) -> bool:
    """Return whether to choose again, and warn where that would be right and cannot be done."""
    first = next(model.parameters())
    device = device_name(first.device)
    lacking = [_lacking(row, first) for row in report.rows]
    if rechoose is None:
        rechoose = example_input is not None and (device != report.device or any(lacking))
    if rechoose and example_input is None:
        raise ValueError("rechoose=True measures the layers and needs example_input, got None")
    if device != report.device and not rechoose:
        logger.warning(
            "backends were chosen on %s, this is %s: pass example_input to choose again", report.device, device
        )
    return rechoose


def _lacking(row: LayerReport, like: Tensor) -> str | None:
    try:
        return FORMATS[row.choice].lacking(like.device, like.dtype, **row.options)
    except TypeError as error:
        raise _strange(row, error) from error


def _strange(row: LayerReport, error: TypeError) -> ValueError:
    return ValueError(f"layer {row.name} must run as {row.choice} with options that it has, got {row.options}: {error}")


def _fill(model: nn.Module, config: dict, tensors: dict[str, Tensor]) -> None:
    """Make the fresh model dense with the structure and the tensors of the saved one."""
    shape_(model, config, tensors)
    fill(model, config, tensors)


def _as_chosen(model: nn.Module, row: LayerReport) -> dict[nn.Module, nn.Module]:
    """Return what replaces the layers of a line of the report; nothing where the device has no such format."""
    if row.choice == PLAIN:
        return {}
    layer = model.get_submodule(row.name)
    try:
        zeros = Zeros(matrix(layer), weight_shape(layer).taps, row.tile)
        form = FORMATS[row.choice].from_zeros(zeros, **row.options)
        return {each: sparse_layer(each, form) for each in map(model.get_submodule, (row.name, *row.shared))}
    except TypeError as error:
        raise _strange(row, error) from error
    except ValueError as error:
        logger.warning("%s stays dense: %s", row.name, error)
        return {}
