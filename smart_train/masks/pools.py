"""Which scores compete for the same budget."""

from collections.abc import Iterable
from dataclasses import dataclass

from smart_kernels import NM
from smart_train.checks import check_number
from smart_train.plans import Plan

from .local import LocalPool
from .planned import PlannedPool
from .pool import Pool
from .ranked import RankedPool
from .ranks import Ranks
from .sharing import Sharing

SCOPES = ("global", "layer")


@dataclass(frozen=True)
class Budget:
    """The budget of a model; the arguments are those of ``Pruner``.

    Raises:
        ValueError: a value is out of its range.
        TypeError: one is no number.
    """

    sparsity: float | None
    scope: str = "global"
    eps: float | None = None

    def __post_init__(self):
        for name in ("sparsity", "eps"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            percent = f"; {self.sparsity:g} % is {self.sparsity / 100:g}" if 1 < self.sparsity < 100 else ""
            raise ValueError(f"sparsity must be in [0, 1), got {self.sparsity}{percent}")
        if self.eps is not None and not 0 <= self.eps < 1:
            raise ValueError(f"eps must be in [0, 1), got {self.eps}")
        if self.scope not in SCOPES:
            raise ValueError(f"scope must be 'global' or 'layer', got {self.scope!r}")


def make_pools(sharing: Sharing, budget: Budget, ranks: Ranks, plan: Plan | None = None) -> list[Pool]:
    """Return one pool for each N:M pattern, and for the other layers one ("global") or one each ("layer").

    With a plan they have the sparsities that it says instead of that of the budget.

    Raises:
        ValueError: a sparsity is missing or differs from what the patterns imply, or leaves a layer no tile.
    """
    local: dict[NM, Sharing] = {}
    ranked: Sharing = {}
    for name, layers in sharing.items():
        pattern = layers[name].pattern
        (local.setdefault(pattern, {}) if pattern.local else ranked)[name] = layers
    if plan is None:
        _check_implied(budget.sparsity, ranked, local)
    groups = [ranked] if budget.scope == "global" else [{name: layers} for name, layers in ranked.items()]
    pools: list[Pool] = [_ranked(group, budget, ranks, plan) for group in groups if group]
    return pools + [LocalPool(members, pattern, budget.eps, ranks) for pattern, members in local.items()]


def _ranked(group: Sharing, budget: Budget, ranks: Ranks, plan: Plan | None) -> Pool:
    if plan is None:
        return RankedPool(group, budget.sparsity, budget.eps, ranks)
    return PlannedPool(group, plan, budget.eps, ranks)


def _check_implied(sparsity: float | None, ranked: Sharing, local: Iterable[NM]) -> None:
    if ranked and sparsity is None:
        raise ValueError(f"sparsity must be given for {', '.join(ranked)}: their patterns imply none, got None")
    for pattern in () if ranked else local:
        if sparsity is not None and abs(sparsity - pattern.sparsity) > 1e-9:
            raise ValueError(f"{pattern} implies sparsity {pattern.sparsity:g}: give that or none, got {sparsity:g}")
