"""Where the whole model has changed although every layer agreed: the layers that change it are taken back."""

from dataclasses import replace
from statistics import median

from torch import nn

from smart_kernels.convert.measure import Cost, cost, time_models
from smart_kernels.convert.modules import Outputs, Snapshot, switch_fast_paths_

from .report import LayerReport
from .settings import Settings
from .usable import PLAIN


def keep_what_agrees_(
    model: nn.Module, plain: Snapshot, rows: tuple[LayerReport, ...], expected: Outputs, settings: Settings
) -> tuple[tuple[LayerReport, ...], Cost]:
    """Make every layer plain, and then one after the other what was chosen for it, as long as the output agrees.

    Args:
        model: with the chosen layers.
        plain: a snapshot with plain ones.
        rows: the lines of the layers.
        expected: what the model returns.
        settings: how to time what is left.

    Returns:
        the lines with what was taken back, and what the model costs now.

    Raises:
        ValueError: plain layers change the output, too.
    """
    chosen = Snapshot(model)
    plain.put_back()
    expected.check(model, "compress_")
    kept = tuple(_kept(model, (plain, chosen), row, expected) for row in rows)
    times = time_models({"chosen": model}, expected.example_input, settings.seconds, settings.cuda_graph)
    return kept, cost(model, expected.example_input, 1e3 * median(times["chosen"]))


def _kept(model: nn.Module, states: tuple[Snapshot, Snapshot], row: LayerReport, expected: Outputs) -> LayerReport:
    plain, chosen = states
    layers = [model.get_submodule(name) for name in (row.name, *row.shared)]
    chosen.put_back(layers)
    switch_fast_paths_(model)
    difference = expected.changed(model)
    if difference is None:
        return row
    plain.put_back(layers)
    switch_fast_paths_(model)
    note = f"{row.choice}: the whole model gives {difference}"
    alone = {"activation": None, "residual": False, "joined": ()}
    return replace(row, choice=PLAIN, options={}, ms=None, **alone, note="; ".join(filter(None, [row.note, note])))
