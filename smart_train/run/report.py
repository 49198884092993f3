"""The tables of a run, the same in the terminal and in ``report.md``. Every number was measured."""

from smart_train.pruners import PRUNERS

from .recipe import Recipe

LAYER_COLUMNS = ("layer", "shape", "kept", "backend", "dense ms", "sparse ms")


def title(name: str) -> str:
    """Return how tables and plots call a model: "dense", or the title of the method that pruned it."""
    return PRUNERS[name].title or name if name in PRUNERS else name


def table(columns: tuple[str, ...], rows: list[tuple]) -> str:
    """Return a Markdown table, padded to read well in a terminal too; all but the first column to the right."""
    cells = [columns, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    head, *body = [_line(row, widths) for row in cells]
    rule = "|" + "|".join("-" * (width + 1) + ("-" if i == 0 else ":") for i, width in enumerate(widths)) + "|"
    return "\n".join([head, rule, *body])


def _line(row: tuple, widths: list[int]) -> str:
    first, *others = (str(cell) for cell in row)
    cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
    return f"| {' | '.join(cells)} |"


def layer_table(report: dict) -> str:
    """Return a row per pruned layer: shape (before and after slimming), kept, backend, dense and sparse time."""
    rows = [
        (row["name"], _shapes(row), f"{row['kept']:.1%}", row["choice"], _ms(row["dense_ms"]), _ms(row["ms"]))
        for row in report["layers"]
    ]
    return table(LAYER_COLUMNS, rows)


def summary_table(report: dict) -> str:
    """Return accuracy, agreement with the dense model, MACs an image, parameters, file size and latency per model."""
    pruned = report["recipe"]["pruner"]
    after = f"+{report['steps']['pruned']}"
    others = [name for name in report["accuracy"] if name not in ("dense", pruned)]
    rows = [("dense", report["steps"]["dense"], *_measured(report, "dense"), *_saved(report, "dense"))]
    rows += [(title(name), after, *_measured(report, name), "", "") for name in others]
    rows.append((title(pruned), after, *_measured(report, pruned), *_saved(report, "sparse")))
    agreement = ("as dense", "KL, nats") if "agreement" in report else ()
    return table(("model", "steps", "accuracy", *agreement, "MACs an image", "parameters", "file", "latency"), rows)


def _saved(report: dict, kind: str) -> tuple[str, str]:
    return _size(report["bytes"][kind]), f"{report['latency'][f'{kind}_ms']:.2f} ms"


def _measured(report: dict, name: str) -> tuple[str, ...]:
    cost = report["cost"].get(name)
    counts = (f"{cost['macs']:,}", f"{cost['parameters']:,}") if cost else ("", "")
    return *_quality(report, name), *counts


def _quality(report: dict, name: str) -> tuple[str, ...]:
    accuracy = f"{report['accuracy'][name]:.2f} %"
    if "agreement" not in report:
        return (accuracy,)
    agreement = report["agreement"].get(name)
    return (accuracy, f"{agreement['same']:.2f} %", f"{agreement['kl']:.3f}") if agreement else (accuracy, "", "")


def _shapes(row: dict) -> str:
    return " -> ".join(_shape(row[when]) for when in ("shape", "slimmed") if when in row)


def _shape(shape: list[int]) -> str:
    """Write (N, taps, C) as people do."""
    N, taps, C = shape
    return f"{N}x{C}" if taps == 1 else f"{N}x{taps}x{C}"


def _ms(time: float | None) -> str:
    return "-" if time is None else f"{time:.3f}"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def verdict(report: dict) -> str:
    """Return the sentences under the tables."""
    latency = report["latency"]
    budget = report["budget"]
    asked = "planned" if "plan" in report else "asked for at most"
    busy = "; above 5 %, so the machine was busy" if not latency["steady"] else ""
    return (
        f"{latency['speedup']:.2f}x the speed of the best dense baseline ({latency['batch']} images, median of "
        f"{latency['pairs']} interleaved pairs, spread {latency['spread']:.0%}{busy}).\n"
        f"Kept {budget['kept']:,} of {budget['prunable']:,} prunable weights; {asked} {budget['asked']:,}.\n"
        f"{_where(report)}{_planned(report)}{_prepared(report)}"
    )


def _planned(report: dict) -> str:
    """Say what was asked for and predicted, beside what was measured, in times of the dense model as measured last."""
    if "plan" not in report:
        return ""
    found = report["plan"]
    latency = report["latency"]
    scale = latency["dense_ms"] / found["dense_ms"]
    predicted = scale * found["ms"]
    limit = f" (at most {scale * found['limit']:.3f} ms)" if found["unit"] == "ms" else ""
    reach = "" if found["met"] else ", out of reach"
    return (
        f"\nAsked for {found['target']}{limit}{reach}: predicted {predicted:.3f} ms, measured "
        f"{latency['sparse_ms']:.3f} ms, {latency['sparse_ms'] / predicted - 1:+.1%}.{_corrected(report, scale)}"
    )


def _corrected(report: dict, scale: float) -> str:
    change = report["correction"]
    if change is None:
        return ""
    kept = f"{change['kept_before']:,} -> {change['kept_after']:,} weights"
    return f"\nMeasured at {scale * change['measured_ms']:.3f} ms after the search, it was corrected once: {kept}."


def _prepared(report: dict) -> str:
    """Say how many passes went into looking at batches before pruning."""
    count = report["steps"]["prepared"]
    return f"\n{count} of the +{report['steps']['pruned']} steps are batches that it looked at first." if count else ""


def _where(report: dict) -> str:
    """Say what has become of the pruned weights."""
    slimmed = sum("slimmed" in row for row in report["layers"])
    if slimmed:
        return f"{slimmed} layers are smaller now; with a channel go its columns in the layers that read it."
    return f"{report['sparse_share']:.1%} of the pruned weights are in layers that run on a sparse backend."


def markdown(report: dict, pictures: list[str]) -> str:
    """Return ``report.md``."""
    recipe = report["recipe"]
    settings = "\n".join(f"- {name}: {value}" for name, value in recipe.items() if value not in (None, {}))
    parts = [
        f"# {recipe['model']} on {recipe['data']}, {Recipe(**recipe).wanted}",
        summary_table(report),
        verdict(report),
        "## Layers",
        layer_table(report),
        *(f"![{name.removesuffix('.png')}]({name})" for name in pictures),
        "## Settings",
        settings,
        f"Measured on {report['device']}, {report['versions']}.",
    ]
    return "\n\n".join(parts) + "\n"
