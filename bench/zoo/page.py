"""``docs/zoo.md``, from the table alone."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ..places import DOCS, RESULTS
from .table import Result

TABLE = RESULTS / "zoo" / "families.json"
PAGE = DOCS / "zoo.md"
HEAD = """# Other people's models

Half of the channels of each model pruned at once (`Channel()`, 50 %, random weights), removed by `slim_`, and the
outputs compared: of each module of timm and each family of torchvision's classifiers the smallest model, if it has
under 30 million parameters. *Slimmed*: at least 25 % fewer parameters, and the outputs agree. *Stays*: they agree,
and less can be removed, with the reason. *Fails*: everything else, a model that cannot be built among it. Written
by `python -m bench zoo`; [how channels are followed](decisions/0025-channels-are-followed-by-running.md).
"""
ORDER = ("fails", "stays", "slimmed", "left out")


def write(results: dict[str, Result], page: Path = PAGE) -> None:
    """Write the page."""
    page.write_text("\n".join(lines(list(results.values()))) + "\n")


def lines(results: list[Result]) -> list[str]:
    """Return the lines of the page: how many of each verdict, how it was made, and a table."""
    counts = Counter(result.verdict for result in results)
    tried = sum(counts.values()) - counts["left out"]
    part = 100 * counts["slimmed"] / max(tried, 1)
    numbers = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ORDER)
    made = sorted({result.made_with for result in results if result.made_with})
    rows = sorted(results, key=lambda result: (ORDER.index(result.verdict), result.family))
    return [
        HEAD,
        f"**{part:.1f} % of {tried} families slimmed**: {numbers} (for their size).\n",
        *(f"Made with: {each}\n" for each in made),
        "| family | model | parameters | left | input | verdict | why |",
        "|---|---|---:|---:|---|---|---|",
        *(_row(result) for result in rows),
    ]


def line(result: Result) -> str:
    """Return a line for the terminal."""
    left = f"{result.size / 1e6:.1f} M -> {_left(result)}"
    return f"{result.verdict:8} {result.family:36} {result.model:28} {left:20} {result.seconds} s  {result.reason}"


def _row(result: Result) -> str:
    cells: Iterable[str] = (
        result.family,
        result.model,
        f"{result.size / 1e6:.1f} M" if result.size else "",
        _left(result),
        result.input,
        result.verdict,
        result.reason.replace("|", "/"),
    )
    return f"| {' | '.join(cells)} |"


def _left(result: Result) -> str:
    return f"{100 * result.left / result.size:.0f} %" if result.left else ""
