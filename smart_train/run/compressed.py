"""The models of a run made small and fast, and what each then costs."""

import copy
from dataclasses import dataclass

from torch import Tensor, nn

from smart_kernels import DENSE, Report, compress_, slim_

from .aim import Aim


@dataclass(frozen=True)
class Compressed:
    """A model as ``compress_`` left it.

    Attributes:
        images: in the example.
        slimmed: the layers that ``slim_`` made smaller before.
    """

    model: nn.Module
    report: Report
    images: int
    slimmed: tuple[str, ...] = ()

    @property
    def cost(self) -> dict[str, float]:
        """Multiply-accumulates per image, and numbers stored in parameters."""
        after = self.report.after
        return {"macs": after.macs // self.images, "parameters": after.parameters}

    @property
    def rows(self) -> dict[str, dict]:
        """Of the report, by layer."""
        return {row["name"]: row for row in self.report.to_dict()["rows"]}


def compressed(
    models: dict[str, nn.Module], pruned: str, example: Tensor, aim: Aim, seconds: float
) -> dict[str, Compressed]:
    """Slim where channels were pruned, then let measurement choose what each layer runs as.

    Args:
        models: finalized, in eval mode: "dense", the ``pruned`` one, perhaps a baseline. Those that were pruned are
            slimmed in place, and the ``pruned`` one compressed.
        example: what layers are timed on.
        aim: what was pruned to; where that is a plan, the zeros show which pattern a layer has.
        seconds: patience of ``compress_``.

    Returns:
        "dense", a copy, as the best dense model; the ``pruned`` one; and a baseline where slimming is all there is to
        do, a copy.
    """
    slimmed = {}
    if aim.whole_channels:
        slimmed = {name: tuple(slim_(model, example).layers) for name, model in models.items() if name != "dense"}
    dense = _as_dense(models["dense"], example, seconds)
    report = compress_(models[pruned], example, aim.pattern, seconds=seconds)
    found = {"dense": dense, pruned: Compressed(models[pruned], report, len(example), slimmed.get(pruned, ()))}
    for name in slimmed.keys() - {pruned}:
        found[name] = _as_dense(models[name], example, 0, slimmed[name])
    return found


def _as_dense(model: nn.Module, example: Tensor, seconds: float, slimmed: tuple[str, ...] = ()) -> Compressed:
    """Return a copy that runs as the best dense model."""
    twin = copy.deepcopy(model)
    return Compressed(twin, compress_(twin, example, backends=DENSE, seconds=seconds), len(example), slimmed)


def layer_rows(dense: Compressed, pruned: Compressed, names: list[str]) -> list[dict]:
    """Return the rows of the pruned layers ``names``, or of the slimmed ones.

    A slimmed layer has its old ``shape`` and its new one as ``slimmed``; ``dense_ms`` is its time in the dense model.
    """
    if not pruned.slimmed:
        return [row for name, row in pruned.rows.items() if name in names]
    return [_slimmed(row, dense.rows[name]) for name, row in pruned.rows.items() if name in pruned.slimmed]


def _slimmed(row: dict, before: dict) -> dict:
    """Return the row of a slimmed layer beside what it was."""
    sizes = [n * taps * c for n, taps, c in (row["shape"], before["shape"])]
    changed = {"shape": before["shape"], "slimmed": row["shape"], "dense_ms": before["ms"]}
    return row | changed | {"kept": row["kept"] * sizes[0] / sizes[1]}
