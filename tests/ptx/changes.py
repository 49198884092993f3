"""Changes of PTX that a test has to notice."""

import re
from collections.abc import Callable

Change = Callable[[str], str]


def nth(pattern: str, replacement: str, n: int = 0) -> Change:
    """Return what replaces the n-th match only."""

    def change(ptx):
        found = list(re.finditer(pattern, ptx))
        assert len(found) > n, f"{pattern} is not in the PTX"
        m = found[n]
        return ptx[: m.start()] + m.expand(replacement) + ptx[m.end() :]

    return change


def every(pattern: str, replacement: str) -> Change:
    """Return what replaces all matches."""

    def change(ptx):
        changed = re.sub(pattern, replacement, ptx)
        assert changed != ptx, f"{pattern} is not in the PTX"
        return changed

    return change
