"""The table of what became of each family: a line of JSON each, added as soon as it is known."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """Tell how the trial of a family ended.

    Attributes:
        family: library and module.
        model: its smallest member.
        size, left: parameters before and after.
        input: shape of the example.
        verdict: "slimmed", "stays", "fails" or "left out".
        reason: for the last three.
        seconds: thread time of building, pruning, slimming and comparing.
        made_with: device, versions and command.
    """

    family: str
    model: str
    size: int
    left: int
    input: str
    verdict: str
    reason: str
    seconds: float
    made_with: str = ""


def add(result: Result, path: Path) -> None:
    """Add a line to the table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def read(path: Path) -> dict[str, Result]:
    """Return the results by family; there are none without a table."""
    lines = path.read_text().splitlines() if path.exists() else []
    results = [Result(**json.loads(line)) for line in lines]
    return {result.family: result for result in results}
