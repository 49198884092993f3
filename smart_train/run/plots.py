"""The pictures of a report. matplotlib is imported only when one is drawn."""

import json
from pathlib import Path

from torch import Tensor

from smart_train.loop import read_lines

COLOURS = {"dense": "tab:gray", "smart": "tab:blue", "oneshot": "tab:orange"}


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
    histories = {name: _rows(out / "training" / name / "history.jsonl") for name in report["accuracy"]}
    pictures = {
        "accuracy.png": lambda axes: _accuracy(axes, histories, report["recipe"]["dense_steps"]),
        "temperature.png": lambda axes: _search(axes, histories["smart"]),
        "kept.png": lambda axes: _kept(axes, report["layers"]),
        "latency.png": lambda axes: _latency(axes, report),
    }
    for name, paint in pictures.items():
        _picture(out / name, paint)
    _masks(out / "masks.png", masks)
    return [*pictures, "masks.png"]


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in read_lines(path)]


def _picture(path: Path, paint) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    paint(axes)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _accuracy(axes, histories: dict[str, list[dict]], dense_steps: int) -> None:
    for name, rows in histories.items():
        measured = [row for row in rows if "accuracy" in row]
        start = 0 if name == "dense" else dense_steps
        steps = [start + row["step"] for row in measured]
        axes.plot(steps, [row["accuracy"] for row in measured], "o-", label=name, color=COLOURS[name])
    axes.set(xlabel="step", ylabel="accuracy on at most 1000 test images (%)", title="Accuracy while training")
    axes.legend()


def _search(axes, rows: list[dict]) -> None:
    rows = [row for row in rows if row["stage"] == "search"]
    for name in ("temperature", "gap", "live"):
        axes.plot([row["step"] for row in rows], [row[name] for row in rows], label=LEGEND[name])
    axes.set(xlabel="step of the search", yscale="log", title="The mask hardens while the temperature falls")
    axes.legend()


LEGEND = {"temperature": "temperature", "gap": "soft-to-hard gap", "live": "live fraction"}


def _kept(axes, layers: list[dict]) -> None:
    axes.barh([layer["name"] for layer in layers], [100 * layer["kept"] for layer in layers], color="tab:blue")
    axes.invert_yaxis()
    axes.set(xlabel="weights kept (%)", title="Where the budget went")


def _latency(axes, report: dict) -> None:
    latency, layers = report["latency"], [layer for layer in report["layers"] if layer["ms"] is not None]
    names = [*(layer["name"] for layer in layers), "whole model"]
    places = range(len(names))
    for column, whole, offset in (("dense_ms", "dense", -0.2), ("ms", "smart", 0.2)):
        times = [*(layer[column] for layer in layers), latency["dense_ms" if whole == "dense" else "sparse_ms"]]
        axes.barh([place + offset for place in places], times, 0.4, label=whole, color=COLOURS[whole])
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
