"""The pages of results and their pictures, from the committed rows alone: ``python -m bench report``.

``docs/results.md`` has one screen per device; ``docs/results/`` has the rows themselves, one page per operator.
"""

from pathlib import Path

from ..accuracy import page as accuracy
from ..codegen.table import TABLE
from ..pareto import page as pareto
from ..places import DOCS, RESULTS
from ..rows import Row, read
from ..tasks import page as tasks
from . import census, drawing, pages, plots, tables


def write(docs: Path | None = None, results: Path = RESULTS, *, dry_run: bool = False) -> int:
    """Write ``results.md``, ``results/`` and ``plots/`` under ``docs``; a dry run only reads. Returns the exit code."""
    docs = docs or DOCS
    files = {path.stem: read(path) for path in sorted(results.glob("*.jsonl"))}
    devices = {name: rows for name, rows in files.items() if rows}
    table = results / TABLE.name
    if not devices and not table.exists():
        print(f"no rows under {results}: run `python -m bench ops`, `layers` or `codegen` first")
        return 1
    if not dry_run:
        draw(devices, docs / "plots")
        accuracy.write(docs, results / accuracy.FOLDER.name)
        pareto.write(docs, results / pareto.FOLDER.name)
        tasks.write(docs, results / tasks.FOLDER.name)
    texts = texts_of(devices, table)
    if not dry_run:
        save(texts, docs)
    print(f"{sum(map(len, devices.values()))} rows of {len(devices)} devices" + ("" if dry_run else f" -> {docs}"))
    return 0


def texts_of(devices: dict[str, list[Row]], table: Path) -> dict[str, str]:
    """Return every page by its path under ``docs``."""
    front = [pages.HEAD]
    found: dict[str, str] = {}
    for name, rows in devices.items():
        front += pages.device(name, rows)
        found |= {f"results/{name}-{op}.md": tables.operator(name, of_op) for op, of_op in pages.by_operator(rows)}
    if table.exists():
        compiled = census.read(table)
        front += census.brief(compiled)
        found["results/codegen.md"] = "\n".join(census.full(compiled))
    return {"results.md": "\n".join(front), **found}


def draw(devices: dict[str, list[Row]], folder: Path) -> None:
    """Write every picture into the folder, ``<device>-<picture>.png``."""
    for name, rows in devices.items():
        for picture, make in plots.pictures(rows).items():
            drawing.save(make, folder / f"{name}-{picture}.png")


def save(texts: dict[str, str], docs: Path) -> None:
    """Write pages under ``docs``; each path's folder is made."""
    for path, text in texts.items():
        place = docs / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text.rstrip("\n") + "\n")
