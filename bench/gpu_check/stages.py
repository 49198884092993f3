"""In what order checks have their turn, and until when: what is worth most comes first, whatever the time."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest

from .check import Check


@dataclass(frozen=True)
class Stage:
    """A turn.

    Attributes:
        kind: of the checks that have it.
        until: share of the whole time at whose end it ends.
        alone: one process, because it times something; otherwise as many as there are cores.
    """

    kind: str
    until: float
    alone: bool = False


STAGES = (
    Stage("limit", 0.06, alone=True),  # how fast the device is
    Stage("first", 0.19),  # right? One case per kernel, dtype and configuration
    Stage("compile", 0.22),  # what the next turns would compile one after the other
    Stage("host", 0.25, alone=True),  # what a call costs the host
    Stage("speed", 0.52, alone=True),
    Stage("tune", 0.64, alone=True),
    Stage("model", 0.82, alone=True),
    Stage("sanitize", 0.92),
    Stage("correct", 1.0),  # the rest of the grid, until the time is up
)
REST = STAGES[-1].kind
MUST = {"limit", "first"}  # without these nothing can be said; the others are cut off by the time that there is


@dataclass(frozen=True)
class Task:
    """A check and the part that lists it."""

    part: str
    check: Check


def plan(tasks: Iterable[Task]) -> dict[str, list[Task]]:
    """Return the tasks by the kind of their stage, each in the order in which families take turns."""
    found: dict[str, list[Task]] = defaultdict(list)
    covered: set[str] = set()
    for task in tasks:
        check = task.check
        first = check.kind == REST and bool(check.covers) and check.covers not in covered
        covered |= {check.covers}
        found["first" if first else check.kind].append(task)
    return {stage.kind: list(_in_turns(found[stage.kind])) for stage in STAGES}


def _in_turns(tasks: Iterable[Task]) -> Iterator[Task]:
    """Yield the first of every family, then the second of every family, and so on."""
    families: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        families[task.check.family].append(task)
    return (task for task in chain(*zip_longest(*families.values())) if task is not None)
