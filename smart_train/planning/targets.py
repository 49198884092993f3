"""Define what a plan can be asked for: a limit on something that adds up over the layers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from smart_kernels import LatencyTable, LayerTimes, Pattern


@dataclass(frozen=True)
class Target(ABC):
    """A limit; in ``unit`` are what the dense model has, what it may have, and what each layer contributes.

    Attributes:
        in_time: whether it is time that counts: then forms that are slower than dense have nothing to offer.
    """

    unit: ClassVar[str]
    in_time: ClassVar[bool] = False

    @abstractmethod
    def limit(self, table: LatencyTable) -> float:
        """Return how much the model may have."""

    @abstractmethod
    def dense(self, table: LatencyTable) -> float:
        """Return how much the dense model has."""

    @abstractmethod
    def part(self, layer: LayerTimes, pattern: Pattern | None, density: float) -> float:
        """Return how much a layer has, dense (None) or in a pattern."""

    def price(self, layer: LayerTimes, pattern: Pattern, density: float) -> float:
        """Return how much more a layer has with one more weight than that density leaves."""
        return self.part(layer, None, 1.0) / layer.shape.numel


@dataclass(frozen=True)
class _Time(Target):
    unit = "ms"
    in_time = True

    def dense(self, table):
        return table.cost.ms

    def part(self, layer, pattern, density):
        return layer.dense_ms if pattern is None else layer.ms(pattern, density)

    def price(self, layer, pattern, density):
        return layer.dense_ms * layer.curves[str(pattern)].slope(density) / layer.shape.numel


@dataclass(frozen=True)
class Latency(_Time):
    """At most so many milliseconds for the example.

    Raises:
        ValueError: not above 0.
    """

    ms: float

    def __post_init__(self):
        _check(self.ms > 0, "latency", "above 0 ms", self.ms)

    def limit(self, table):
        return self.ms

    def __str__(self):
        return f"latency {self.ms:g} ms"


@dataclass(frozen=True)
class Speedup(_Time):
    """So many times as fast as the best dense model.

    Raises:
        ValueError: not above 1.
    """

    factor: float

    def __post_init__(self):
        _check(self.factor > 1, "speed-up", "above 1", self.factor)

    def limit(self, table):
        return table.cost.ms / self.factor

    def __str__(self):
        return f"speed-up {self.factor:g}"


@dataclass(frozen=True)
class Size(Target):
    """At most so many bytes of parameters and buffers.

    Counted are the weights that are kept. The places of 16x16 blocks of float32 add 0.4 %, those of 2:4 a sixteenth.

    Raises:
        ValueError: not above 0.
    """

    nbytes: float
    unit = "bytes"

    def __post_init__(self):
        _check(self.nbytes > 0, "size", "above 0 bytes", self.nbytes)

    def limit(self, table):
        return self.nbytes

    def dense(self, table):
        return table.cost.nbytes

    def part(self, layer, pattern, density):
        return density * layer.shape.numel * layer.itemsize

    def __str__(self):
        return f"size {self.nbytes:g} bytes"


@dataclass(frozen=True)
class Macs(Target):
    """At most so many multiply-accumulates for the example.

    Raises:
        ValueError: not above 0.
    """

    count: float
    unit = "MACs"

    def __post_init__(self):
        _check(self.count > 0, "MACs", "above 0", self.count)

    def limit(self, table):
        return self.count

    def dense(self, table):
        return table.cost.macs

    def part(self, layer, pattern, density):
        return density * layer.macs

    def __str__(self):
        return f"{self.count:g} MACs"


@dataclass(frozen=True)
class Sparsity(Target):
    """Such a fraction of the prunable weights removed, at least.

    Raises:
        ValueError: outside (0, 1).
    """

    fraction: float
    unit = "weights"

    def __post_init__(self):
        _check(0 < self.fraction < 1, "sparsity", "between 0 and 1", self.fraction)

    def limit(self, table):
        return (1 - self.fraction) * self.dense(table)

    def dense(self, table):
        return sum(layer.shape.numel for layer in table.layers.values())

    def part(self, layer, pattern, density):
        return density * layer.shape.numel

    def __str__(self):
        return f"sparsity {self.fraction:g}"


def _check(holds: bool, name: str, wanted: str, got: float) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}, got {got}")
