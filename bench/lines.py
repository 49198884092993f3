"""Records of finished runs: frozen dataclasses, a line of JSON each."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

Record = TypeVar("Record")


def add(record: Any, path: Path) -> None:
    """Add a line to a file, which need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def read(cls: type[Record], paths: Iterable[Path]) -> dict[tuple, Record]:
    """Return the records of some files by their ``key``, the last of several with the same; missing files have none."""
    lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
    return {record.key: record for record in (cls(**json.loads(line)) for line in lines)}
