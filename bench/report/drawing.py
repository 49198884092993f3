"""The common look of the pictures: at most 1200 pixels wide, small multiples with shared axes and one legend.

matplotlib is imported only where something is drawn.
"""

from collections.abc import Callable
from pathlib import Path

from ..rows import Row

WIDTH = 12.0  # inches
DPI = 100
ACROSS = 3  # panels in a row
COLOURS = {"dense": "grey", "peer": "C3", "ours": "C0", "extra": "C1"}
NAMES = {"ours": "", "extra": " with cpu-jit", "peer": " best peer"}
FONT = {"font.size": 12, "axes.titlesize": 12, "legend.fontsize": 11, "axes.labelsize": 12}


def save(make: Callable, path: Path) -> None:
    """Draw one picture into a file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(FONT):
        figure = make()
        figure.savefig(path, dpi=DPI, metadata={"Software": None})  # no version: the same rows give the same file
        plt.close(figure)


def title(r: Row, what: str) -> str:
    threads = f", {r.threads} thread{'s' * (r.threads > 1)}" if r.timer == "rounds" else ""
    return f"{what} on {r.device}, {r.dtype}{threads}"


def panels(names: list[str], height: float, label: str):
    """Return a figure and one axis per name, in rows of two or three; axes are shared, each column labelled once."""
    import matplotlib.pyplot as plt

    across = 2 if len(names) in (2, 4) else min(ACROSS, len(names))
    down = -(-len(names) // across)
    size = {"figsize": (WIDTH, height * down + 0.9), "layout": "constrained"}
    figure, grid = plt.subplots(down, across, squeeze=False, sharex=True, sharey=True, **size)
    axes = list(grid.flat)
    for empty in axes[len(names) :]:
        empty.set_visible(False)
    for axis, name in zip(axes, names, strict=False):
        axis.set_title(name)
        axis.grid(alpha=0.3)
    for axis in axes[max(0, len(names) - across) : len(names)]:
        axis.tick_params(labelbottom=True)
        axis.set_xlabel(label)
    return figure, axes[: len(names)]


def times(axis, which: str) -> None:
    """Label a logarithmic axis of speed-ups as 1x, 2x, 4x."""
    getattr(axis, f"set_{which}scale")("log", base=2)
    getattr(axis, f"{which}axis").set_major_formatter(
        lambda value, _: f"{value:g}x" if value >= 1 else f"1/{1 / value:g}x"
    )
