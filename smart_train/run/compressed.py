"""The models of a run made small and fast, and what each then costs."""

import copy
from dataclasses import dataclass

from torch import Tensor, nn

from smart_kernels import Channel, Pattern, Report, compress_, slim_
from smart_kernels.convert import DENSE


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
    models: dict[str, nn.Module], example: Tensor, pattern: Pattern, seconds: float
) -> dict[str, Compressed]:
    """Slim where channels were pruned, then let measurement choose what each layer runs as.

    Args:
        models: finalized, in eval mode. The pruned ones are slimmed in place, and "smart" compressed.
        example: what layers are timed on.
        seconds: patience of ``compress_``.

    Returns:
        "dense", a copy, as the best dense model; "smart"; and "oneshot", where slimming is all there is to do, a copy.
    """
    images, slimmed = len(example), {}
    if isinstance(pattern, Channel):
        slimmed = {name: tuple(slim_(models[name], example).layers) for name in models if name != "dense"}
    dense, smart = copy.deepcopy(models["dense"]), models["smart"]
    baseline = compress_(dense, example, backends=DENSE, seconds=seconds)
    chosen = compress_(smart, example, pattern, seconds=seconds)
    found = {"dense": Compressed(dense, baseline, images)}
    found["smart"] = Compressed(smart, chosen, images, slimmed.get("smart", ()))
    if "oneshot" in slimmed:
        twin = copy.deepcopy(models["oneshot"])
        report = compress_(twin, example, backends=DENSE, seconds=0)
        found["oneshot"] = Compressed(twin, report, images, slimmed["oneshot"])
    return found


def layer_rows(results: dict[str, Compressed], pruned: list[str]) -> list[dict]:
    """The rows of the pruned layers, or of the slimmed ones.

    A slimmed layer has its old ``shape`` and its new one as ``slimmed``; ``dense_ms`` is its time in the dense model.
    """
    smart, dense = results["smart"], results["dense"].rows
    if not smart.slimmed:
        return [row for name, row in smart.rows.items() if name in pruned]
    return [_slimmed(row, dense[name]) for name, row in smart.rows.items() if name in smart.slimmed]


def _slimmed(row: dict, before: dict) -> dict:
    """A slimmed layer beside what it was."""
    sizes = [n * taps * c for n, taps, c in (row["shape"], before["shape"])]
    changed = {"shape": before["shape"], "slimmed": row["shape"], "dense_ms": before["ms"]}
    return row | changed | {"kept": row["kept"] * sizes[0] / sizes[1]}
