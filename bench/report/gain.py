"""The picture at the top: what one gains on a device, in layers and in a whole model."""

from collections import defaultdict
from statistics import median

from ..rows import Row
from .answers import Line, call, lines, side
from .drawing import COLOURS, NAMES, WIDTH, times, title


def gain(rows: list[Row], models: list[Row], hosts: list[Row]):
    """Draw the answer at a glance: the median and range of the speed-up over all shapes, and the largest model.

    On a GPU the second panel is what a call costs the host, which decides there unless a graph is replayed.
    """
    import matplotlib.pyplot as plt

    across = 2 if models or hosts else 1
    figure, axes = plt.subplots(1, across, figsize=(WIDTH * across / 2, 4.2), squeeze=False, layout="constrained")
    second = " and the cost of a call" if hosts else " and a pruned model" if models else ""
    figure.suptitle(title(rows[0], f"Pruned layers{second}"))
    _gain_of_layers(axes[0][0], rows)
    if hosts:
        _cost_of_calls(axes[0][1], hosts)
    elif models:
        _gain_of_model(axes[0][1], models)
    return figure


def _gain_of_layers(axis, rows: list[Row]) -> None:
    found = lines(rows)
    for (shown, name), colour in zip(_series(found), ("C0", "C1", "C2", "C3"), strict=False):
        values: dict[float, list[float]] = defaultdict(list)
        for line in found:
            for sparsity, value in line.points.items() if (line.block, line.side) == (shown, name) else ():
                values[sparsity].append(value)
        zeros = sorted(values)
        percent = [100 * z for z in zeros]
        label = f"smart-kernels{NAMES[name]}, {shown}"
        axis.plot(percent, [median(values[z]) for z in zeros], marker="o", color=colour, label=label)
        low, high = ([end(values[z]) for z in zeros] for end in (min, max))
        axis.fill_between(percent, low, high, color=colour, alpha=0.15)
    axis.axhline(1, color="black", linewidth=1)
    axis.annotate("best dense", (0.98, 1), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    shapes = len({r.shape for r in rows})
    alone = " (CUDA graph)" if rows[0].timer == "graph" else ""
    axis.set(title=f"Linear{alone}: median and range of {shapes} shapes", xlabel="zeros, %", ylabel="speed-up")
    times(axis, "y")
    axis.legend(loc="upper left")


def _series(found: list[Line]) -> list[tuple[str, str]]:
    """Return the blocks and sides to draw: one block with and without ``cpu-jit``, else up to four blocks."""
    present = {(line.block, line.side) for line in found}
    if ("32x32", "extra") in present:
        return [("32x32", "ours"), ("32x32", "extra")]
    usual = [(name, "ours") for name in ("16x16", "32x32", "64x64", "128x128") if (name, "ours") in present]
    return usual or sorted(key for key in present if key[1] == "ours")[:4]


def _gain_of_model(axis, models: list[Row]) -> None:
    largest = max(models, key=lambda r: r.p50_ms).shape
    bars = sorted((r for r in models if r.shape == largest), key=lambda r: -r.p50_ms)
    labels = {"dense": "PyTorch, dense", "compress_": "smart-kernels", "compress_ jit": "smart-kernels\nwith cpu-jit"}
    names = [labels.get(r.provider, r.provider) for r in bars]
    drawn = axis.barh(names, [r.p50_ms for r in bars], color=[COLOURS[side(r)] for r in bars])
    gains = [f", {r.speedup:.1f}x" if r.speedup and side(r) != "dense" else "" for r in bars]
    axis.bar_label(drawn, [f" {r.p50_ms:.3g} ms{gained}" for r, gained in zip(bars, gains, strict=True)])
    axis.invert_yaxis()
    axis.margins(x=0.25)
    r = bars[0]
    axis.set(title=f"{r.shape}: whole model, {r.block} blocks, {r.sparsity:.0%} zeros", xlabel="milliseconds")


def _cost_of_calls(axis, hosts: list[Row]) -> None:
    """Draw how long calls keep the host: ours, and the same product dense."""
    ours = {call(r): r for r in hosts if side(r) == "ours"}
    names = sorted(ours, key=lambda name: -ours[name].p50_ms)
    dense = {(r.op, r.pass_, r.shape): r.p50_ms for r in hosts if side(r) == "dense"}
    drawn = axis.barh(names, [1e3 * ours[name].p50_ms for name in names], color=COLOURS["ours"], label="smart-kernels")
    axis.bar_label(drawn, [f" {1e3 * ours[name].p50_ms:.0f}" for name in names])
    keys = [(ours[name].op, ours[name].pass_, ours[name].shape) for name in names]
    known = [(1e3 * dense[key], name) for key, name in zip(keys, names, strict=True) if key in dense]
    axis.scatter(*zip(*known, strict=True), color="black", marker="|", s=300, zorder=3, label="F.linear")
    axis.invert_yaxis()
    axis.margins(x=0.2)
    axis.set(xscale="log", title="A call without a graph: time on the host", xlabel="microseconds")
    axis.legend(loc="lower right")
