"""Record what became of the mutants, and write the part of ``docs/reliability.md`` about them."""

import json
from collections import Counter
from pathlib import Path

from .areas import AREAS
from .equivalent import EQUIVALENT

ROWS = Path(__file__).parent / "rows.jsonl"
KILLED, SURVIVED = "killed", "survived"
HEAD = """
## Do the tests notice?

A seeded sample of mutants of each area. Each runs those tests that run its line, of the files of tests that
`tests/mutate/areas.py` names for the area, the quickest first, up to the first failure.
Equivalent mutants, each with its reason in `tests/mutate/equivalent.py`, do not count. The command is
`python -m tests.mutate --area AREA --count N --seed 0`; what it has tried, it does not try again.

| area | noticed | of | equivalent | survivors |
|---|---|---|---|---|
"""


def read() -> dict[tuple[str, str, str], dict]:
    """Return the last row of each mutant, by its key."""
    lines = ROWS.read_text().splitlines() if ROWS.exists() else []
    return {(row["file"], row["was"], row["now"]): row for row in map(json.loads, lines)}


def survivors(area: str) -> list[dict]:
    """Return the rows of mutants of an area that nobody has noticed, but for those that nobody can."""
    named = {key: row for key, row in read().items() if row["area"] == area and key not in EQUIVALENT}
    return [row for row in named.values() if row["outcome"] == SURVIVED]


def add(row: dict) -> None:
    """Add a row."""
    with ROWS.open("a") as file:
        print(json.dumps(row), file=file)


def section() -> str:
    """Return the table: a line for each area that has rows."""
    rows = read()
    lines = []
    for area in AREAS:
        outcomes = Counter(
            "equivalent" if key in EQUIVALENT else row["outcome"] for key, row in rows.items() if row["area"] == area
        )
        if outcomes:
            of = outcomes[KILLED] + outcomes[SURVIVED]
            cells = area, outcomes[KILLED], of, outcomes["equivalent"], outcomes[SURVIVED]
            lines.append(f"| {' | '.join(map(str, cells))} |\n")
    return HEAD + "".join(lines) if lines else ""
