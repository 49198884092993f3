"""Pictures of rows: speed-up against sparsity, latency, roofline; and which pictures some rows can give."""

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from itertools import cycle

from ..rows import Row
from .answers import Line, area, block, lines, main_timer, side
from .drawing import COLOURS, NAMES, WIDTH, panels, times, title
from .gain import gain

GAIN = "gain"
STYLES = {"ours": "-", "extra": "--", "peer": ":"}


def pictures(rows: list[Row]) -> dict[str, Callable]:
    """Return what can be drawn of these rows: the name of each picture, and what makes its figure."""
    by_op: dict[str, list[Row]] = defaultdict(list)
    for r in rows:
        if r.pass_ == "fwd" and r.timer != "host":
            by_op[r.op].append(r)
    of_op = {op: _comparable(found) for op, found in by_op.items()}
    found = {}
    subject = "choice" if "choice" in of_op else "block_sparse_linear"
    if subject in of_op:
        hosts = [r for r in rows if r.timer == "host"]
        found[GAIN] = partial(gain, of_op[subject], of_op.get("model", []), hosts)
    for op, of in of_op.items():
        if op == "model" and main_timer(of) == "graph":
            continue  # few and unlike: the table on the front page says more
        if len({r.sparsity for r in of}) > 1:
            found[f"{op}-speedup"] = partial(speedup, of)
        found[f"{op}-latency"] = partial(latency, of)
        if counted := [r for r in of if r.flops]:
            found[f"{op}-roofline"] = partial(roofline, counted)
    return found


def _comparable(rows: list[Row]) -> list[Row]:
    """Return the rows of the main timer, of the dtype and number of threads that has the most."""
    rows = [r for r in rows if r.timer == main_timer(rows)]
    ((most, _),) = Counter((r.dtype, r.threads) for r in rows).most_common(1)
    return [r for r in rows if (r.dtype, r.threads) == most]


def speedup(rows: list[Row]):
    """Draw the speed-up over the best dense baseline against the zeros, one panel per shape; colours are blocks."""
    drawn = lines(rows)
    shapes = sorted({line.shape for line in drawn})
    blocks = sorted({line.block for line in drawn}, key=area)
    figure, axes = panels(shapes, 3.4, "zeros, %")
    figure.suptitle(title(rows[0], f"{rows[0].op}: speed-up over the best dense"))
    labelled: dict[str, object] = {}
    for axis, shape in zip(axes, shapes, strict=True):
        for line in sorted(drawn, key=lambda line: (area(line.block), line.side)):
            if line.shape == shape:
                labelled[f"{line.block}{NAMES[line.side]}"] = _draw(axis, line, f"C{blocks.index(line.block) % 10}")
        axis.axhline(1, color="black", linewidth=1)
        times(axis, "y")
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=min(5, len(labelled)))
    return figure


def _draw(axis, line: Line, colour: str):
    points = sorted(line.points.items())
    zeros = [100 * sparsity for sparsity, _ in points]
    style = {"linestyle": STYLES[line.side], "color": colour, "marker": "o", "markersize": 4}
    return axis.plot(zeros, [value for _, value in points], **style)[0]


def latency(rows: list[Row]):
    """Draw the time of every dense provider, of our best per block and of the best peers, nearest to 90 % zeros."""
    target = min({r.sparsity for r in rows}, key=lambda sparsity: abs(sparsity - 0.9))
    best = _best_times([r for r in rows if r.sparsity == target])
    shapes = sorted({shape for shape, _ in best})
    labels = list(dict.fromkeys(label for _, label in sorted(best, key=lambda key: _order(best[key]))))
    figure, axes = panels(shapes, 1.1 + 0.27 * len(labels), "ms, median and p20 to p80")
    figure.suptitle(title(rows[0], f"{rows[0].op}, {target:.0%} zeros: best time"))
    for axis, shape in zip(axes, shapes, strict=True):
        for place, label in enumerate(labels):
            if r := best.get((shape, label)):
                error = [[r.p50_ms - r.p20_ms], [r.p80_ms - r.p50_ms]]
                axis.errorbar(r.p50_ms, place, xerr=error, fmt="o", capsize=3, color=COLOURS[side(r)])
        axis.set(xscale="log", yticks=range(len(labels)), yticklabels=labels)
    axes[0].invert_yaxis()
    return figure


def _best_times(rows: list[Row]) -> dict[tuple[str, str], Row]:
    """Return the fastest row by shape and label: a label is another's provider, or our block."""
    best: dict[tuple[str, str], Row] = {}
    for r in sorted(rows, key=lambda r: -r.p50_ms):
        best[r.shape, r.provider if side(r) in ("dense", "peer") else f"{block(r)}{NAMES[side(r)]}"] = r
    return best


def _order(r: Row) -> tuple:
    """Return a key that sorts labels: dense, peers, ours by the size of the block."""
    mine = side(r) in ("ours", "extra")
    return (*(name == side(r) for name in ("extra", "ours", "peer")), area(block(r)) if mine else (0, r.provider))


def roofline(rows: list[Row]):
    """Draw FLOP/s against FLOPs per byte, under the measured ceilings."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(0.7 * WIDTH, 5), layout="constrained")
    figure.suptitle(title(rows[0], rows[0].op))
    peak = rows[0].peak_tflops
    bandwidth = rows[0].bandwidth_gbps
    intensity = [r.flops / r.bytes for r in rows]
    corners = sorted([min(intensity), 1e3 * peak / bandwidth, max(intensity)])
    axis.plot(corners, [min(peak, x * bandwidth / 1e3) for x in corners], color="black", label="measured ceiling")
    for provider, marker in zip(sorted({r.provider for r in rows}), cycle("os^vDP*X"), strict=False):
        found = [r for r in rows if r.provider == provider]
        intensities = [r.flops / r.bytes for r in found]
        axis.scatter(intensities, [r.tflops for r in found], s=22, alpha=0.6, marker=marker, label=provider)
    axis.set(xscale="log", yscale="log", xlabel="useful FLOPs per byte", ylabel="useful TFLOP/s")
    figure.legend(loc="outside right center")
    return figure
