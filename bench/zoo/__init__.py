"""Whole channels of other people's models: prune half, slim, compare. ``python -m bench zoo``, or ``make zoo``.

Tried is one model of each module of timm and of each family of torchvision's classification builders: the smallest, if
it has under 30 million parameters, with random weights. Results are added to a table as they come; what is in it is not
run again, so the command can be stopped and goes on. ``docs/zoo.md`` is written from the table.
"""

import argparse
import re
from functools import partial
from multiprocessing import TimeoutError as Late
from multiprocessing import get_context
from multiprocessing.pool import Pool

from . import page
from .families import LARGEST, Family, families, smallest
from .table import Result, add, read
from .trial import attempt

SECONDS = 1200  # for sizing a family, and again for its model


def main(args: argparse.Namespace) -> int:
    """Try every family that is not in the table yet; return 1 if a model fails, 2 if none was asked for."""
    try:
        asked = [family for family in families() if re.search(args.filter, str(family))]
    except ImportError as error:
        print(f"bench zoo needs timm and torchvision, which `make zoo` installs, got: {error}")
        return 2
    path = args.out or page.TABLE
    known = {} if args.dry_run else read(path)
    results = {}
    for family in asked[:1] if args.dry_run else asked:
        results[str(family)] = known.get(str(family)) or in_a_process(family, args.threads)
        if str(family) not in known and not args.dry_run:
            add(results[str(family)], path)
        print(page.line(results[str(family)]), flush=True)
    if not (args.dry_run or args.out):
        page.write(read(path))
    if not asked:
        print(f"--filter must match a family, got {args.filter!r}, which none contains")
        return 2
    return int(any(result.verdict == "fails" for result in results.values()))


def in_a_process(family: Family, threads: int) -> Result:
    """Size the members of a family and try the smallest, in a process that is ended when it takes too long."""
    give_up = partial(Result, family=str(family), model="", size=0, left=0, input="", seconds=0)
    with get_context("spawn").Pool(1) as pool:
        found = _answer(pool, smallest, family)
        if found is None:
            return give_up(verdict="fails", reason=f"no answer within {SECONDS} s")
        name, count, error = found
        if error:
            return give_up(verdict="fails", reason=error)
        if count > LARGEST:
            why = f"the smallest has {count / 1e6:.0f} million parameters"
            return give_up(model=name, size=count, verdict="left out", reason=why)
        result = _answer(pool, attempt, family, name, threads)
        late = f"no answer within {SECONDS} s"
        return result or give_up(model=name, size=count, verdict="fails", reason=late)


def _answer(pool: Pool, function, *args):
    """Return what a process returns, or None if it takes too long or ends without an answer."""
    try:
        return pool.apply_async(function, args).get(SECONDS)
    except Late:
        return None
