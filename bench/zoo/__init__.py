"""Whole channels of other people's models: prune half, slim, compare. ``python -m bench zoo``, or ``make zoo``.

Tried is one model of each module of timm and of each family of torchvision's classification builders: the smallest, if
it has under 30 million parameters, with random weights. Results are added to a table as they come; what is in it is not
run again, so the command can be stopped and goes on. ``docs/zoo.md`` is written from the table.
"""

import argparse
import re
from contextlib import closing
from functools import partial

from . import page
from .library import LARGEST, Family, families, smallest
from .table import Result, add, read
from .trial import attempt
from .worker import Worker

SECONDS = 1200  # for sizing a family, and again for its model


def main(args: argparse.Namespace) -> int:
    """Try every family that is not in the table yet; return 1 if a model fails, 2 if none was asked for."""
    try:
        asked = [family for family in families() if re.search(args.filter, str(family))]
    except ImportError as error:
        print(f"bench zoo needs timm and torchvision, which `make zoo` installs, got: {error}")
        return 2
    if not asked:
        print(f"--filter must match a family, got {args.filter!r}, which none contains")
        return 2
    path = args.out or page.TABLE
    known = {} if args.dry_run else read(path)
    failed = 0
    with closing(Worker(SECONDS)) as worker:
        for family in asked[:1] if args.dry_run else asked:
            result = known.get(str(family)) or tried(family, worker, args.threads)
            failed += result.verdict == "fails"
            print(page.line(result), flush=True)
            if not args.dry_run and str(family) not in known:
                add(result, path)
    if not (args.dry_run or args.out):
        page.write(read(path))
    return int(failed > 0)


def tried(family: Family, worker: Worker, threads: int) -> Result:
    """Size the members of a family and try the smallest."""
    result = partial(Result, family=str(family), left=0, input="", seconds=0)
    name = ""
    size = 0
    try:
        name, size, error = worker(smallest, family)
        if error:
            return result(model=name, size=size, verdict="fails", reason=error)
        if size >= LARGEST:
            why = f"the smallest has {size / 1e6:.0f} million parameters"
            return result(model=name, size=size, verdict="left out", reason=why)
        return worker(attempt, family, name, threads)
    except TimeoutError as error:
        return result(model=name, size=size, verdict="fails", reason=str(error))
