"""Hold what was measured: a curve of time over density for each layer and pattern."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from smart_kernels.convert.measure import Cost
from smart_kernels.convert.measure.choice import MARGIN
from smart_kernels.patterns import Pattern, WeightShape


@dataclass(frozen=True)
class Curve:
    """The time of a layer in one pattern, over density.

    Attributes:
        pattern: of the zeros.
        densities: ascending; those that were measured.
        ratios: time of the fastest sparse form / time of the fastest dense one, at each.
        labels: which form that was.
    """

    pattern: Pattern
    densities: tuple[float, ...]
    ratios: tuple[float, ...]
    labels: tuple[str, ...]

    def ratio(self, density: float) -> float:
        """Return the time as a fraction of the dense one, between two measured densities by the line through them.

        A layer that would not win by ``MARGIN`` stays dense, so the fraction is 1 there, and above the largest measured
        density. Below the smallest nothing is promised beyond it.
        """
        ratio = self._line(density)
        return ratio if ratio < 1 - MARGIN else 1.0

    def slope(self, density: float) -> float:
        """Return how much the fraction grows with the density there, at least 0: of the piece that ends there."""
        if len(self.densities) < 2:
            return 0.0
        right = min(max(1, bisect_left(self.densities, density)), len(self.densities) - 1)
        run = self.densities[right] - self.densities[right - 1]
        return max(0.0, (self.ratios[right] - self.ratios[right - 1]) / run)

    def label(self, density: float) -> str:
        """Return the form that was fastest at the nearest measured density."""
        return min(zip(self.densities, self.labels, strict=True), key=lambda pair: abs(pair[0] - density))[1]

    def _line(self, density: float) -> float:
        if density > self.densities[-1] + 1e-9:
            return 1.0
        right = bisect_left(self.densities, density)
        if right == 0 or len(self.densities) == 1:
            return self.ratios[0]
        right = min(right, len(self.densities) - 1)
        low, high = self.densities[right - 1 : right + 1]
        part = min(1.0, (density - low) / (high - low))
        return self.ratios[right - 1] + part * (self.ratios[right] - self.ratios[right - 1])


@dataclass(frozen=True)
class LayerTimes:
    """The layers that share a weight.

    Attributes:
        names: of them; the first was measured.
        shape: of the weight.
        itemsize: bytes of a weight.
        calls: of all of them in one forward.
        macs: multiply-accumulates of these calls, dense.
        dense_ms: their part of the model's time, each call in the fastest dense form; ``dense_label`` says which.
        curves: by the text of the pattern; none of a pattern that ``mask_`` would not take the layer in.
    """

    names: tuple[str, ...]
    shape: WeightShape
    itemsize: int
    calls: int
    macs: int
    dense_ms: float
    dense_label: str
    curves: dict[str, Curve]

    def ms(self, pattern: Pattern, density: float) -> float:
        """Return the time of all calls in a pattern."""
        return self.dense_ms * self.curves[str(pattern)].ratio(density)


@dataclass(frozen=True)
class LatencyTable:
    """The times of a model's layers, dense and pruned, and what the best dense model costs.

    Attributes:
        layers: by the first name.
        cost: of the best dense model: its MACs, parameters, bytes and measured time.
        device: they hold for.
        factor: milliseconds of the model for each that a layer takes alone.
        missing: a line about each entry that there was no time for.
        measured, read: how many entries were measured now, and how many came from the cache.
    """

    layers: dict[str, LayerTimes]
    cost: Cost
    device: str
    factor: float = 1.0
    missing: tuple[str, ...] = ()
    measured: int = 0
    read: int = 0

    def __str__(self) -> str:
        lines = [("layers", "shape", "dense ms", "pattern", "density: time as a fraction of dense")]
        for alike in _alike(self.layers.values()):
            first, others = alike[0], len(alike) - 1
            name = f"{first.names[0]} and {others} alike" if others else first.names[0]
            head = (name, "x".join(map(str, first.shape)), f"{first.dense_ms:.3f}")
            lines += [(*head, text, _points(curve)) for text, curve in first.curves.items()] or [(*head, "-", "")]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        count = f"{self.measured} entries measured, {self.read} from the cache"
        alone = f"a layer counts {self.factor:.2f} times what it takes alone"
        head = f"{self.device}; the dense model takes {self.cost.ms:.3f} ms; {alone}; {count}"
        return "\n".join([head, *map(str.rstrip, rows), *self.missing])


def _alike(layers: Iterable[LayerTimes]) -> list[list[LayerTimes]]:
    """Return the layers, those with the same times together."""
    found: dict[tuple, list[LayerTimes]] = {}
    for layer in layers:
        found.setdefault((layer.shape, layer.dense_ms, *layer.curves.values()), []).append(layer)
    return list(found.values())


def _points(curve: Curve) -> str:
    points = zip(curve.densities, curve.ratios, curve.labels, strict=True)
    return ", ".join(f"{density:.2f}: {ratio:.2f} ({label})" for density, ratio, label in points)
