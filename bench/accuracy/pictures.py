"""The pictures of ``docs/results-accuracy.md``."""

from collections import defaultdict
from collections.abc import Callable
from statistics import fmean

from .cells import CELLS, CORE, METHODS, title
from .compare import OURS, Comparison, outcome
from .paired import interval

COLOURS = {"ahead": "#9bd0a5", "tied": "#d8d8d8", "behind": "#f0a8a0", "one pair": "#f4f4f4", "not run": "white"}
MOST = 7  # curves in a panel: SMART and the best others


def pictures(found: Comparison) -> dict[str, Callable]:
    """Return what draws each picture, by file name."""
    return {"matrix": lambda: matrix(found), "sparsity": lambda: sparsity(found)}


def matrix(found: Comparison):
    """Draw a field for each method and cell: green where SMART is ahead by more than the interval, red behind."""
    import matplotlib.pyplot as plt

    cells = [cell for cell in CORE if cell in found.runs]
    methods = [method for method in METHODS if method != OURS]
    figure, axis = plt.subplots(figsize=(12, 0.36 * len(methods) + 1.6), layout="constrained")
    for row, method in enumerate(methods):
        for column, cell in enumerate(cells):
            difference = found.difference(cell, method)
            colour = COLOURS[outcome(difference)]
            axis.add_patch(plt.Rectangle((column, row), 1, 1, facecolor=colour, edgecolor="#c0c0c0", linewidth=0.5))
            if difference:
                axis.text(column + 0.5, row + 0.55, f"{difference.mean:+.1f}", ha="center", va="center")
    axis.set(xlim=(0, len(cells)), ylim=(len(methods), 0))
    axis.set_xticks([place + 0.5 for place in range(len(cells))], cells, rotation=20, ha="right")
    axis.set_yticks([place + 0.5 for place in range(len(methods))], [title(method) for method in methods])
    axis.set_title("SMART minus each method, points: ahead (green), tied (grey), behind (red), one pair only (pale)")
    return figure


def sparsity(found: Comparison):
    """Draw accuracy with its 95 % band against sparsity, a panel for each model and tile."""
    import matplotlib.pyplot as plt

    panels: dict[str, list[str]] = defaultdict(list)
    for cell in CELLS:
        if cell in found.runs and CELLS[cell].sparsity is not None:
            panels[f"{CELLS[cell].model}, {CELLS[cell].pattern}, {CELLS[cell].data}"].append(cell)
    across = min(3, len(panels)) or 1
    down = -(-len(panels) // across) or 1
    figure, grid = plt.subplots(down, across, squeeze=False, figsize=(12, 3.4 * down), layout="constrained")
    for axis, (name, cells) in zip(grid.flat, panels.items(), strict=False):
        axis.set(title=name, xlabel="sparsity, %", ylabel="accuracy, %")
        _curves(axis, found, cells)
    for axis in list(grid.flat)[len(panels) :]:
        axis.set_visible(False)
    return figure


def _curves(axis, found: Comparison, cells: list[str]) -> None:
    """Draw SMART and the best others of a panel."""
    means = {m: fmean(a.values()) for m in METHODS if (a := found.accuracies(cells[0], m))}
    chosen = [OURS, *sorted((m for m in means if m != OURS), key=means.get, reverse=True)][:MOST]
    for number, method in enumerate(chosen):
        points = [(100 * CELLS[c].sparsity, found.accuracies(c, method)) for c in cells if found.accuracies(c, method)]
        x = [place for place, _ in sorted(points, key=lambda p: p[0])]
        y = [fmean(a.values()) for _, a in sorted(points, key=lambda p: p[0])]
        half = [interval(list(a.values())) for _, a in sorted(points, key=lambda p: p[0])]
        if not points:
            continue
        style = {"color": f"C{number}", "linewidth": 2.5 if method == OURS else 1.2}
        axis.errorbar(x, y, half, marker="o", capsize=3, label=title(method), **style)
        low, high = ([a + s * b for a, b in zip(y, half, strict=True)] for s in (-1, 1))
        axis.fill_between(x, low, high, alpha=0.12, color=style["color"])
    axis.legend(fontsize=8)
