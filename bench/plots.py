"""Pictures of rows: speedup against sparsity, roofline, latency."""

from collections import defaultdict
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

from .rows import Row


def draw(rows: list[Row], folder: Path, name: str) -> list[Path]:
    """One picture per kind and operation with enough rows; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    by_op: dict[str, list[Row]] = defaultdict(list)
    for r in rows:
        if r.pass_ == "fwd" and r.K:
            by_op[r.op].append(r)
    paths = []
    for op, found in by_op.items():
        for kind, make in KINDS.items():
            paths.append(_save(make, found, folder / f"{name}-{op}-{kind}.png"))
    return paths


def _save(make: Callable, rows: list[Row], path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure = make(rows)
    figure.suptitle(f"{rows[0].op}, {rows[0].device}, {rows[0].dtype}, {rows[0].threads} threads", fontsize=10)
    figure.savefig(path, dpi=110, metadata={"Software": None})  # no version: the same rows give the same file
    plt.close(figure)
    return path


def _panels(rows: list[Row]):
    import matplotlib.pyplot as plt

    shapes = sorted({r.shape for r in rows})
    figure, axes = plt.subplots(1, len(shapes), figsize=(4.2 * len(shapes), 3.8), squeeze=False, layout="constrained")
    panels = zip(axes[0], shapes, strict=True)
    return figure, [(axis, shape, [r for r in rows if r.shape == shape]) for axis, shape in panels]


def speedup(rows: list[Row]):
    """Speedup over the best dense baseline; the line at 1 is break-even."""
    import matplotlib

    colours = matplotlib.colormaps["tab20"].colors
    figure, panels = _panels(rows)
    for axis, shape, found in panels:
        lines: dict[str, list[Row]] = defaultdict(list)
        for r in found:
            if r.speedup and not r.provider.startswith("dense"):
                lines[f"{r.provider} {r.block}"].append(r)
        for colour, (label, line) in zip(cycle(colours), sorted(lines.items()), strict=False):
            line.sort(key=lambda r: r.sparsity)
            zeros, speedups = [100 * r.sparsity for r in line], [r.speedup for r in line]
            axis.plot(zeros, speedups, marker="o", markersize=3, label=label, color=colour)
        axis.axhline(1, color="black", linewidth=1, linestyle="--")
        axis.annotate("break-even", (0.02, 1), xycoords=("axes fraction", "data"), va="bottom", fontsize=7)
        axis.set(title=shape, xlabel="zeros, %", ylabel="speedup over best dense", yscale="log")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    return figure


def roofline(rows: list[Row]):
    """FLOP/s against FLOPs per byte, under the measured ceilings."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    peak, bandwidth = rows[0].peak_tflops, rows[0].bandwidth_gbps
    intensity = [r.flops / r.bytes for r in rows]
    line = sorted([min(intensity), 1e3 * peak / bandwidth, max(intensity)])
    axis.plot(line, [min(peak, x * bandwidth / 1e3) for x in line], color="black", label="measured ceiling")
    for provider in sorted({r.provider for r in rows}):
        found = [r for r in rows if r.provider == provider]
        axis.scatter([r.flops / r.bytes for r in found], [r.tflops for r in found], s=10, label=provider)
    axis.set(xscale="log", yscale="log", xlabel="useful FLOPs per byte", ylabel="useful TFLOP/s")
    axis.legend(fontsize=6)
    return figure


def latency(rows: list[Row]):
    """Time per provider at the sparsity nearest to 90 %."""
    target = min({r.sparsity for r in rows}, key=lambda s: abs(s - 0.9))
    figure, panels = _panels([r for r in rows if r.sparsity == target])
    for axis, shape, found in panels:
        best: dict[str, Row] = {}
        for r in found:
            if r.provider not in best or r.p50_ms < best[r.provider].p50_ms:
                best[r.provider] = r
        bars = sorted(best.values(), key=lambda r: r.p50_ms)
        errors = [[r.p50_ms - r.p20_ms for r in bars], [r.p80_ms - r.p50_ms for r in bars]]
        labels = [r.provider if r.provider.startswith("dense") else f"{r.provider} {r.block}" for r in bars]
        axis.barh(labels, [r.p50_ms for r in bars], xerr=errors)
        axis.set(title=f"{shape}, {target:.0%} zeros", xlabel="p50 ms (p20 to p80)", xscale="log")
        axis.tick_params(axis="y", labelsize=6)
    return figure


KINDS = {"speedup": speedup, "roofline": roofline, "latency": latency}
