"""Compare plans with one pattern for all layers, at equal measured latency."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..accuracy.paired import Difference, paired
from .choices import GRID, PLANS
from .record import Point

EQUAL = 0.95  # of a plan's speed-up: what is at least as fast counts as equal, noise included
RIVALS = 2  # of the grid that run with all seeds
NEAR = 0.1  # a prediction holds within this


@dataclass(frozen=True)
class Front:
    """The points of one model.

    Attributes:
        points: choice -> seed -> point.
    """

    points: dict[str, dict[int, Point]]

    @classmethod
    def of(cls, points: Iterable[Point], model: str) -> "Front":
        """Sort those of a model."""
        found: dict[str, dict[int, Point]] = {}
        for point in points:
            if point.model == model:
                found.setdefault(point.choice, {})[point.seed] = point
        return cls(found)

    def rivals(self, plan: str) -> list[str]:
        """Return the best of the grid by seed 0 among those at least as fast as the plan; none before it has run."""
        if 0 not in self.points.get(plan, {}):
            return []
        enough = EQUAL * self.points[plan][0].speedup
        first = {str(choice): self.points.get(str(choice), {}).get(0) for choice in GRID}
        fast = {name: point.accuracy for name, point in first.items() if point and point.speedup >= enough}
        return sorted(fast, key=fast.get, reverse=True)[:RIVALS]

    def accuracies(self, choice: str) -> dict[int, float]:
        """Return percent by seed."""
        return {seed: point.accuracy for seed, point in self.points.get(choice, {}).items()}

    def difference(self, plan: str, rival: str) -> Difference | None:
        """Return the plan's accuracy minus the rival's, on the seeds that both have."""
        return paired(self.accuracies(plan), self.accuracies(rival))

    def plans(self) -> list[Point]:
        """Return the points of all plans."""
        return [point for plan in PLANS for point in self.points.get(str(plan), {}).values()]


def near(points: Iterable[Point]) -> tuple[int, int]:
    """Return how many predictions hold, and of how many."""
    off = [abs(point.off) for point in points if point.off is not None]
    return sum(each <= NEAR for each in off), len(off)
