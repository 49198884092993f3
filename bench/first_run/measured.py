"""A time of the first run, and what every row of it has in common."""

from dataclasses import dataclass, replace

from .. import run
from ..case import Case, Problem
from ..floor import Limits
from ..rows import Row
from ..timing import Timing

COMMAND = "first run, by a script outside the project; same cases: bench gpu-check"
WHERE = {"device": "NVIDIA H200", "torch": "2.11.0+cu130", "triton": "3.6.0", "python": "3.12.3", "commit": "25cb45a"}
WHERE |= {"date": "2026-11-27", "command": COMMAND, "load": None}
WHERE |= {"threads": 1}  # not written down; no matter to a GPU, and as bench has it, so that a new row replaces these
LIMITS = Limits(peak=789e12, bandwidth=4231e9)


@dataclass(frozen=True)
class Measured:
    """A time of a provider; ``runs`` is 0 where nobody counted them, 1 where the time is a mean."""

    problem: Problem
    provider: str
    timer: str
    p20_ms: float
    p50_ms: float
    p80_ms: float
    runs: int = 0

    def row(self, flops: float, traffic: float, l2_bytes: float = 0.0, **changed) -> Row:
        """Return the row of a time with what the problem needs; ``changed`` columns last."""
        case = Case(self.problem, self.provider, False, tuple, tuple, flops, traffic, l2_bytes=l2_bytes)
        timing = Timing(self.p20_ms, self.p20_ms, self.p50_ms, self.p80_ms, self.runs, self.timer)
        (row,) = run.rows([case], [timing], LIMITS, WHERE)
        return replace(row, **changed)


def mean(problem: Problem, provider: str, timer: str, time_ms: float) -> Measured:
    """Return a time of which only the mean, or the median, is known."""
    return Measured(problem, provider, timer, time_ms, time_ms, time_ms, runs=1)
