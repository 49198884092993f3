"""``python -m tests.mutate --area NAME``: mutants of an area that the tests do not notice. Needs ``cosmic-ray``."""

import argparse
import sys

from tests.fuzz import report

from . import rows
from .areas import AREAS
from .equivalent import EQUIVALENT
from .mutants import sample
from .runner import SURVIVED, look, outcome, repository


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__)
    parser.add_argument("--area", choices=AREAS, action="append", help="default: all, one after the other")
    parser.add_argument("--count", type=int, default=30, help="mutants of each area")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="try those that survived once more")
    options = parser.parse_args(arguments)
    for area in options.area or AREAS:
        _try(area, options)
    report.write()
    return 0


def _try(name: str, options: argparse.Namespace) -> None:
    """Try the mutants of an area that have no row yet, and add the rows."""
    area, known = AREAS[name], rows.read()
    chosen = [
        mutant
        for mutant in sample(area, options.seed, options.count)
        if mutant.key not in EQUIVALENT
        and (mutant.key not in known or (options.again and known[mutant.key]["outcome"] == SURVIVED))
    ]
    if not chosen:
        return
    with repository() as copy:
        covered = look(copy, area)
        if covered is None:
            raise SystemExit(f"the tests of {name} must pass before anything is mutated, see {copy}.log")
        for mutant in chosen:
            found = outcome(copy, mutant, covered)
            row = {"area": name, "seed": options.seed, "outcome": found, **vars(mutant), "commit": report.commit()}
            rows.add({key: value for key, value in row.items() if key != "source"})
            print(f"{found} {mutant.file}:{mutant.line} {mutant.was}  ->  {mutant.now}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
