"""Which checks a part has, and what comes out of one: both survive whatever raises."""

import importlib
import time
import traceback
from collections.abc import Iterator

import torch

from .check import Check, Context


def listed(part: str, context: Context) -> Iterator[Check]:
    """Yield the checks of a part; a part that cannot even list them is one failed check."""
    try:
        yield from importlib.import_module(f".{part}", __package__).cases(context)
    except Exception as error:
        broken = error
        yield Check(f"{part}: list of checks", lambda: {"ok": False, "exception": repr(broken)})


def execute(check: Check) -> dict:
    """Run one check; return what came out, an exception included, with its seed and seconds."""
    torch.manual_seed(time.time_ns() % 2**31)
    seed = torch.initial_seed()
    start = time.monotonic()
    try:
        outcome = check.run()
    except Exception as error:
        last = traceback.format_exc(limit=-3)
        outcome = {"ok": False, "exception": f"{type(error).__name__}: {error}"[:500], "traceback": last}
    return {"seed": seed, "seconds": round(time.monotonic() - start, 3), **outcome}
