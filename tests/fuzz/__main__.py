"""``python -m tests.fuzz files | formats | kill | report``; each prints the command that repeats a failure."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from . import report
from .runner import run_apart, run_inside

WHAT = ("files", "formats", "kill")


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
        tried = import_module(f".{options.what}", __package__)  # the others stay out of its memory
        tried.prepare()
        return run_inside(tried.case, options.what, options.seed, numbers, options.inside)
    found = run_apart(options.what, options.seed, options.first, options.count)
    print(", ".join(f"{count} {word}" for word, count in sorted(found.words.items())))
    print(*found.failures, sep="\n" if found.failures else "")
    if options.record:
        report.record(options.what, options.count, options.seed, found)
        report.write()
    return int(bool(found.failures))


if __name__ == "__main__":
    sys.exit(main())
