"""A plan: what each layer of a model is to be pruned to, before anything is pruned."""

from dataclasses import asdict, dataclass

from torch import nn

from smart_kernels import Masked, Pattern, WeightShape, mask_, parse


@dataclass(frozen=True)
class LayerPlan:
    """Describe what the layers that share a weight are to become.

    Attributes:
        names: of these layers.
        shape: (N, taps, C).
        pattern: as ``smart_kernels.parse`` reads it; empty for a layer that stays dense.
        density: fraction of the weights to keep.
        dense_ms, ms: predicted time of all calls in a forward, before and after.
        loss: what the pruning is predicted to cost.
        price: what one more weight costs, in the unit of the target, at least 0.
        why: a few words.
    """

    names: tuple[str, ...]
    shape: tuple[int, int, int]
    pattern: str
    density: float
    dense_ms: float
    ms: float
    loss: float
    price: float
    why: str

    @property
    def weights(self) -> int:
        """Return how many the dense layer has."""
        return WeightShape(*self.shape).numel


@dataclass(frozen=True)
class Plan:
    """Describe what each prunable layer of a model is to become, and what that is predicted to be worth.

    Give it to a pruner in place of a pattern and a sparsity; ``print`` says why each layer got what it got.

    Attributes:
        layers: the largest first; those that stay dense are among them.
        target: what was asked for, in words.
        unit: of the three numbers below.
        limit, dense, predicted: what was asked for at most, what the dense model has, what the planned one would have.
        met: whether the prediction keeps to the limit; otherwise the plan is the nearest that there is.
        dense_ms, ms: measured time of the best dense model, and that of the planned one as predicted.
        note: what else there is to know.
    """

    layers: tuple[LayerPlan, ...]
    target: str
    unit: str
    limit: float
    dense: float
    predicted: float
    met: bool
    dense_ms: float
    ms: float
    note: str = ""

    @property
    def pruned(self) -> dict[str, LayerPlan]:
        """Return the layers to prune by each of their names."""
        return {name: layer for layer in self.layers if layer.pattern for name in layer.names}

    @property
    def sparsity(self) -> float:
        """Return the fraction of the weights to remove, of those in ``layers``."""
        kept = sum(layer.density * layer.weights for layer in self.layers)
        return 1 - kept / sum(layer.weights for layer in self.layers)

    def patterns(self) -> dict[Pattern, set[str]]:
        """Return the names of the layers to prune, by pattern."""
        found: dict[Pattern, set[str]] = {}
        for name, layer in self.pruned.items():
            found.setdefault(parse(layer.pattern), set()).add(name)
        return found

    def mask_(self, model: nn.Module) -> dict[str, Masked]:
        """Mask the layers of a model as planned, in place; see ``smart_kernels.mask_``.

        Raises:
            ValueError: nothing is to be pruned, or the model lacks a layer of the plan.
        """
        if not self.pruned:
            raise ValueError(f"the plan must prune a layer, got one that leaves all dense: {self.note or self.target}")
        masked: dict[str, Masked] = {}
        for pattern, names in self.patterns().items():
            masked |= mask_(model, pattern, lambda _, name, names=names: name in names)
        if missing := self.pruned.keys() - masked.keys():
            raise ValueError(
                f"the model must have the layers of the plan, got none called {', '.join(sorted(missing))}"
            )
        return masked

    def to_dict(self) -> dict:
        """Return plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> "Plan":
        """Rebuild what ``to_dict`` gave, from JSON, too."""
        rows = [row | {key: tuple(row[key]) for key in ("names", "shape")} for row in data["layers"]]
        return cls(**{**data, "layers": tuple(LayerPlan(**row) for row in rows)})

    def __str__(self) -> str:
        lines = [("layer", "shape", "becomes", "kept", "dense ms", "ms", "loss", "why")]
        lines += [_cells(layer) for layer in self.layers]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([*map(str.rstrip, rows), self.summary()])

    def summary(self) -> str:
        """Return a sentence: what was asked for, and what is predicted."""
        numbers = f"{self.dense:.4g} -> {self.predicted:.4g} {self.unit}, at most {self.limit:.4g} asked"
        time = f"{self.dense_ms:.3f} -> {self.ms:.3f} ms predicted"
        met = "" if self.met else "not reachable, this is the nearest: "
        kept = f"{self.sparsity:.1%} of the weights removed"
        return f"{self.target}: {met}{numbers}; {time}, {kept}" + (f"\n{self.note}" if self.note else "")


def _cells(layer: LayerPlan) -> tuple[str, ...]:
    shape = "x".join(str(size) for size in layer.shape if size > 1 or layer.shape[1] != 1)
    times = (f"{layer.dense_ms:.3f}", f"{layer.ms:.3f}", f"{layer.loss:.3g}")
    return layer.names[0], shape, layer.pattern or "dense", f"{layer.density:.1%}", *times, layer.why
