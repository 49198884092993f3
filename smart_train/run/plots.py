"""The pictures of a report. matplotlib is imported only when one is drawn."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from . import history
from .report import title

DENSE_COLOUR = "tab:gray"
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")  # the recipe's method first
LEGEND = {"temperature": "temperature", "gap": "soft-to-hard gap", "live": "live fraction"}


def draw(out: Path, report: dict, masks: dict[str, Tensor]) -> list[str]:
    """Draw every picture of a run into ``out``.

    Args:
        report: as in ``report.json``.
        masks: (rows, cols) 0/1 kept blocks per pruned layer.

    Returns:
        The file names; empty when matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    pictures = _pictures(out, report)
    for name, paint in pictures.items():
        _picture(out / name, paint)
    _masks(out / "masks.png", masks)
    return [*pictures, "masks.png"]


def _pictures(out: Path, report: dict) -> dict[str, Callable]:
    """Return by file name what draws on a pair of axes."""
    histories = {name: history.read(out / "training" / name / "history.jsonl") for name in report["accuracy"]}
    searched = [row for row in histories[report["recipe"]["pruner"]] if row["stage"] == "search"]
    pictures = {"accuracy.png": lambda axes: _accuracy(axes, histories, report)}
    if searched:
        pictures["temperature.png"] = lambda axes: _search(axes, searched)
    pictures["kept.png"] = lambda axes: _kept(axes, report["layers"])
    pictures["latency.png"] = lambda axes: _latency(axes, report)
    return pictures


def colours(report: dict) -> dict[str, str]:
    """Return a colour for each model of a report: gray for the dense one, blue for the pruned one."""
    pruned = report["recipe"]["pruner"]
    others = [name for name in report["accuracy"] if name not in ("dense", pruned)]
    return {"dense": DENSE_COLOUR, **dict(zip((pruned, *others), COLOURS, strict=False))}


def _picture(path: Path, paint) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    paint(axes)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _accuracy(axes, histories: dict[str, list[dict]], report: dict) -> None:
    for name, rows in histories.items():
        measured = [row for row in rows if "accuracy" in row]
        start = 0 if name == "dense" else report["recipe"]["dense_steps"]
        steps = [start + row["step"] for row in measured]
        axes.plot(steps, [row["accuracy"] for row in measured], "o-", label=title(name), color=colours(report)[name])
    axes.set(xlabel="step", ylabel="accuracy on at most 1000 test images (%)", title="Accuracy while training")
    axes.legend()


def _search(axes, rows: list[dict]) -> None:
    for name in (name for name in LEGEND if name in rows[0]):
        axes.plot([row["step"] for row in rows], [row[name] for row in rows], label=LEGEND[name])
    axes.set(xlabel="step of the search", yscale="log", title="How the masks become 0 and 1")
    axes.legend()


def _kept(axes, layers: list[dict]) -> None:
    axes.barh([layer["name"] for layer in layers], [100 * layer["kept"] for layer in layers], color="tab:blue")
    axes.invert_yaxis()
    axes.set(xlabel="weights kept (%)", title="Where the budget went")


def _latency(axes, report: dict) -> None:
    latency = report["latency"]
    layers = [layer for layer in report["layers"] if layer["ms"] is not None]
    names = [*(layer["name"] for layer in layers), "whole model"]
    places = range(len(names))
    pruned = report["recipe"]["pruner"]
    for name, column, whole, offset in (("dense", "dense_ms", "dense_ms", -0.2), (pruned, "ms", "sparse_ms", 0.2)):
        times = [*(layer[column] for layer in layers), latency[whole]]
        bars = [place + offset for place in places]
        axes.barh(bars, times, 0.4, label=title(name), color=colours(report)[name])
    axes.set_yticks(list(places), names)
    axes.invert_yaxis()
    axes.set(xlabel=f"ms, {latency['batch']} images, {report['device']}", title="Time")
    axes.legend()


def _masks(path: Path, masks: dict[str, Tensor]) -> None:
    import matplotlib.pyplot as plt

    columns = min(4, len(masks))
    lines = -(-len(masks) // columns)
    figure, grid = plt.subplots(lines, columns, figsize=(3 * columns, 2.6 * lines), squeeze=False, layout="constrained")
    for axes in grid.flat[len(masks) :]:
        axes.axis("off")
    for axes, (name, mask) in zip(grid.flat, masks.items(), strict=False):
        axes.imshow(mask.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{name}: {int(mask.sum())} of {mask.numel()}", fontsize=8)
    figure.suptitle("Kept blocks (output channels down, input channels across)")
    figure.savefig(path, dpi=120)
    plt.close(figure)
