"""The picture of ``docs/results-pareto.md``."""

from collections.abc import Iterable
from statistics import fmean

from ..report.drawing import panels, times
from .choices import GRID, MODELS, PATTERNS, PLANS
from .compare import Front
from .record import Point


def fronts(points: Iterable[Point]):
    """Draw accuracy against measured speed-up, a panel a model: a line for each pattern, stars for the plans."""
    points = list(points)
    models = [model for model in MODELS if any(point.model == model for point in points)]
    figure, axes = panels(models, 4.2, "measured speed-up over the best dense model")
    for axis, model in zip(axes, models, strict=True):
        _curves(axis, Front.of(points, model))
        times(axis, "x")
    axes[0].set_ylabel("accuracy, %")
    axes[0].legend(loc="lower left")
    return figure


def _curves(axis, front: Front) -> None:
    for number, pattern in enumerate(PATTERNS):
        names = [str(choice) for choice in GRID if choice.pattern == pattern]
        axis.plot(*_means(front, names), marker="o", color=f"C{number}", label=pattern)
    plans = _means(front, [str(plan) for plan in PLANS])
    axis.plot(*plans, marker="*", markersize=14, linestyle="--", color="black", label="plan")
    dense = [point.dense for points in front.points.values() for point in points.values()]
    axis.axhline(fmean(dense), color="grey", linewidth=1, label="dense")


def _means(front: Front, choices: list[str]) -> tuple[list[float], list[float]]:
    """Return speed-up and accuracy of each choice that has run, means over its seeds."""
    found = [front.points[name].values() for name in choices if name in front.points]
    means = sorted((fmean(p.speedup for p in points), fmean(p.accuracy for p in points)) for points in found)
    return [speedup for speedup, _ in means], [accuracy for _, accuracy in means]
