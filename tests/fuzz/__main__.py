"""``python -m tests.fuzz files | formats | kill | report``; each prints the command that repeats a failure."""

import argparse
import sys
from pathlib import Path

from . import report
from .runner import run_apart, run_inside

WHAT = ("files", "formats", "kill")


def case_of(what: str):
    """Return the function that makes and tries one input; only what is asked for is imported."""
    if what == "files":
        from .files import case
    elif what == "formats":
        from .formats import case
    else:
        from .kill import case
    return case


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("what", choices=(*WHAT, "report"))
    parser.add_argument("--count", type=int, default=500, help="how many inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the number of the first input")
    parser.add_argument("--record", action="store_true", help="add a row for docs/reliability.md, and write that")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.what == "report":
        report.write()
        return 0
    if options.inside:
        numbers = range(options.first, options.first + options.count)
        return run_inside(case_of(options.what), options.what, options.seed, numbers, options.inside)
    found = run_apart(options.what, options.seed, options.first, options.count)
    print(", ".join(f"{count} {word}" for word, count in sorted(found.words.items())))
    print(*found.failures, sep="\n" if found.failures else "")
    if options.record:
        report.record(options.what, options.count, options.seed, found)
        report.write()
    return int(bool(found.failures))


if __name__ == "__main__":
    sys.exit(main())
