"""The report of ``compress_``: a line for each layer, and the whole model."""

from dataclasses import asdict, dataclass, field

import torch

from smart_kernels.convert.measure import Cost
from smart_kernels.formats import FORMATS


@dataclass(frozen=True)
class LayerReport:
    """The line of one weight.

    Attributes:
        name: of the layer; ``shared`` are the other layers with the same weight.
        shape: (N, taps, C).
        kept: fraction of the weight that is not 0.
        tile: (tile_n, tile_c) that explains the zeros, or None.
        choice: format it runs in; ``options`` select its variant.
        baseline: best dense candidate.
        dense_ms, ms: median time of the best dense candidate and of the choice, on the layer's own input.
        spread: of the pair ratios behind the choice, as a fraction.
        pairs: interleaved rounds.
        note: what else there is to know.
        activation, residual: what follows the layer in the model and is computed in its launch, see ``Epilogue``.
        joined: the layers that are computed in one launch, this one among them, in the order of their calls.
    """

    name: str
    shape: tuple[int, int, int]
    kept: float
    tile: tuple[int, int] | None
    choice: str = "dense"
    options: dict = field(default_factory=dict)
    baseline: str = "dense"
    dense_ms: float | None = None
    ms: float | None = None
    spread: float = 0.0
    pairs: int = 0
    shared: tuple[str, ...] = ()
    note: str = ""
    activation: str | None = None
    residual: bool = False
    joined: tuple[str, ...] = ()

    @property
    def fusions(self) -> list[str]:
        """Return a word for each thing besides the product that the layer's launch does."""
        others = [name for name in self.joined if name != self.name]
        ending = ["+residual"] * self.residual + [f"+{self.activation}"] * (self.activation is not None)
        return ending + [f"with {', '.join(others)}"] * bool(others)

    @classmethod
    def from_dict(cls, data: dict) -> "LayerReport":
        """Rebuild the line from JSON, which has lists for tuples."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})

    @property
    def weights(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def sparse(self) -> bool:
        """Return whether it runs on a format that leaves zeros out."""
        return not FORMATS[self.choice].dense


@dataclass(frozen=True)
class Report:
    """The lines of all layers, and where they were measured.

    Attributes:
        rows: a line for each weight.
        absent: a line for each backend that could not be tried there.
        settings: arguments of ``compress_``, to choose again in the same way.
        before, after: what the whole model cost, dense, and costs now. ``before.ms`` is the time of the best dense
            model: as it came, or with BatchNorms folded, in channels_last, with plain layers or each as its own
            ``baseline``; timed in turns.
        left: name of each layer or BatchNorm that was left alone -> why.
    """

    rows: tuple[LayerReport, ...]
    device: str
    torch_version: str = torch.__version__
    absent: tuple[str, ...] = ()
    settings: dict = field(default_factory=dict)
    before: Cost | None = None
    after: Cost | None = None
    left: dict[str, str] = field(default_factory=dict)

    @property
    def totals(self) -> dict[str, float]:
        """Return sums over the measured layers, and the fraction of the pruned weights that runs on a sparse format."""
        timed = [row for row in self.rows if row.ms is not None]
        pruned = {row.name: row.weights * (1 - row.kept) for row in self.rows}
        on_sparse = sum(pruned[row.name] for row in self.rows if row.sparse)
        return {
            "weights": sum(row.weights for row in self.rows),
            "kept": sum(row.weights * row.kept for row in self.rows) / max(1, sum(row.weights for row in self.rows)),
            "pruned_on_sparse": on_sparse / max(1, sum(pruned.values())),
            "dense_ms": sum(row.dense_ms for row in timed),
            "ms": sum(row.ms for row in timed),
        }

    def to_dict(self) -> dict:
        """Return plain values, for JSON."""
        return {**asdict(self), "totals": self.totals}

    @classmethod
    def from_dict(cls, data: dict) -> "Report":
        """Rebuild what ``to_dict`` gave."""
        rows = tuple(LayerReport.from_dict(row) for row in data["rows"])
        absent = tuple(data.get("absent", ()))
        settings = data.get("settings", {})
        costs = [None if data.get(when) is None else Cost(**data[when]) for when in ("before", "after")]
        return cls(rows, data["device"], data["torch_version"], absent, settings, *costs, data.get("left", {}))

    def __str__(self) -> str:
        lines = [("layer", "shape", "kept", "tile", "runs as", "dense ms", "ms", "speedup", "spread", "")]
        lines += [_cells(row) for row in self.rows]
        totals = self.totals
        times = (f"{totals['dense_ms']:.3f}", f"{totals['ms']:.3f}", _speedup(totals["dense_ms"], totals["ms"]))
        lines.append(("total", f"{totals['weights']}", f"{totals['kept']:.1%}", "", "", *times, "", ""))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        whole = [f"whole model  {self.before.change(self.after)}"] if self.before and self.after else []
        head = f"{self.device}, torch {self.torch_version}"
        left = [f"{name or 'the model'} is left alone: {reason}" for name, reason in self.left.items()]
        return "\n".join([head, *(line.rstrip() for line in table), *whole, *self.absent, *left])


def _cells(row: LayerReport) -> tuple[str, ...]:
    N, taps, C = row.shape
    shape = f"{N}x{C}" if taps == 1 else f"{N}x{taps}x{C}"
    tile = "-" if row.tile is None else f"{row.tile[0]}x{row.tile[1]}"
    variant = " ".join([row.choice, *map(str, row.options.values()), *row.fusions])
    note = " ".join(filter(None, [row.note, f"shared with {', '.join(row.shared)}" if row.shared else ""]))
    if row.ms is None:
        return row.name, shape, f"{row.kept:.1%}", tile, variant, "-", "-", "-", "-", note
    times = (f"{row.dense_ms:.3f}", f"{row.ms:.3f}", _speedup(row.dense_ms, row.ms), f"{row.spread:.0%}")
    return row.name, shape, f"{row.kept:.1%}", tile, variant, *times, note


def _speedup(dense: float, ms: float) -> str:
    return f"{dense / ms:.2f}x" if ms else "-"
