"""List what each layer may become: a pattern and a density, or dense, with what it costs and what it loses."""

from collections.abc import Iterator
from dataclasses import dataclass

from smart_kernels import LatencyTable, LayerTimes, Pattern

from .losses import LossCurve
from .targets import Target

GRID = (
    0.02,
    0.03,
    0.05,
    0.065,
    0.08,
    0.1,
    0.125,
    0.15,
    0.2,
    0.25,
    0.3,
    0.35,
    0.4,
    0.45,
    0.5,
)  # densities to choose from


@dataclass(frozen=True)
class Option:
    """Describe one thing that a layer may become.

    Attributes:
        pattern: None for dense.
        density: fraction of the weights that are kept.
        cost: what the layer then contributes to what the target limits.
        loss: predicted; 0 for dense.
        ms: predicted time of all its calls.
    """

    pattern: Pattern | None
    density: float
    cost: float
    loss: float
    ms: float


Curves = dict[tuple[str, str], LossCurve]


def options_of(layer: LayerTimes, curves: Curves, target: Target, faster: bool) -> list[Option]:
    """Return the options of a layer by rising loss, without those that another beats in cost and loss.

    Zeros that buy nothing of what is wanted drop out here: beside dense, or beside another density on the same plateau.

    Args:
        faster: without those that are not faster than dense.
    """
    dense = Option(None, 1.0, target.part(layer, None, 1.0), 0.0, layer.dense_ms)
    found = sorted([dense, *_sparse(layer, curves, target, faster)], key=lambda option: (option.loss, option.cost))
    best = [found[0]]
    for option in found[1:]:
        if option.cost < best[-1].cost * (1 - 1e-9):
            best.append(option)
    return best


def _sparse(layer: LayerTimes, curves: Curves, target: Target, faster: bool) -> Iterator[Option]:
    for text, times in layer.curves.items():
        curve = next((curves[name, text] for name in layer.names if (name, text) in curves), None)
        if curve is None:
            continue
        low, high = times.densities[0], times.densities[-1]
        for density in sorted({*times.densities, *(each for each in GRID if low < each < high)}):
            if (kept := curve.at(density)) is None:
                continue
            ms = layer.ms(times.pattern, kept[0])
            if ms < layer.dense_ms or not faster:
                yield Option(times.pattern, kept[0], target.part(layer, times.pattern, kept[0]), kept[1], ms)


def all_options(table: LatencyTable, curves: Curves, target: Target, faster: bool = True) -> dict[str, list[Option]]:
    """Return the options of each layer of a table by its name."""
    return {name: options_of(layer, curves, target, faster) for name, layer in table.layers.items()}
