"""``python -m tests.mutate --area NAME``: mutants of an area that the tests do not notice. Needs ``cosmic-ray``."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.fuzz import report

from . import rows
from .areas import AREAS, Area
from .equivalent import EQUIVALENT
from .mutants import Mutant, sample, those
from .rows import KILLED, SURVIVED
from .runner import inside, look, notices, notices_anew, repository, seen


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
    drawn = sample(area, options.seed, options.count)
    chosen = [mutant for mutant in drawn if mutant.key not in known and mutant.key not in EQUIVALENT]
    if options.again:
        chosen += those(rows.survivors(name))
    if not chosen:
        return
    note = partial(_note, name, options.seed)
    with repository() as copy:
        if not inside(copy, area, partial(_noticed, copy, area, chosen, note)):
            raise SystemExit(f"the tests of {name} must pass before anything is mutated, see {copy}.log")
        covered, known = seen(copy), rows.read()
        for mutant in chosen:
            if mutant.key not in known or known[mutant.key]["outcome"] == SURVIVED:
                note(mutant, KILLED if notices_anew(copy, mutant, covered) else SURVIVED)


def _noticed(copy: Path, area: Area, mutants: list[Mutant], note: Callable[[Mutant, str], None]) -> bool:
    """Add rows for mutants that are noticed without importing them; return whether the tests pass without them."""
    covered = look(copy, area)
    for mutant in mutants if covered else ():
        if notices(copy, mutant, covered):
            note(mutant, KILLED)
    return covered is not None


def _note(area: str, seed: int, mutant: Mutant, outcome: str) -> None:
    row = {"area": area, "seed": seed, "outcome": outcome, **vars(mutant), "commit": report.commit()}
    rows.add({key: value for key, value in row.items() if key != "source"})
    print(f"{outcome} {mutant.file}:{mutant.line} {mutant.was}  ->  {mutant.now}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
