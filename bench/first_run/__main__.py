"""Convert the files of the first run: ``python -m bench.first_run ROWS MEASURES OUT``"""

import argparse
import json
from pathlib import Path

from .. import rows
from . import cases, measures


def main(argv: list[str] | None = None) -> None:
    """Convert two files into one of rows, which is written anew."""
    parser = argparse.ArgumentParser("python -m bench.first_run")
    parser.add_argument("rows", type=Path, help="timings of the cases of bench, JSON lines")
    parser.add_argument("measures", type=Path, help="everything else that was timed, JSON lines")
    parser.add_argument("out", type=Path, help="file of rows to write")
    args = parser.parse_args(argv)
    found = [cases.row(r) for r in _lines(args.rows)] + measures.rows(_lines(args.measures))
    args.out.unlink(missing_ok=True)
    rows.append(found, args.out)
    print(f"{len(found)} rows -> {args.out}")


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main()
