"""Which scores compete for the same budget."""

from collections.abc import Iterable

from smart_kernels import NM

from .local import LocalPool
from .pool import Pool
from .ranked import RankedPool
from .sharing import Sharing

SCOPES = ("global", "layer")


def make_pools(sharing: Sharing, sparsity: float | None, scope: str, eps: float | None = None) -> list[Pool]:
    """Return one pool for each N:M pattern, and for the other layers one ("global") or one each ("layer").

    Raises:
        ValueError: a value out of its range, or a sparsity that is missing or differs from what the patterns imply.
    """
    _check_values(sparsity, scope, eps)
    local: dict[NM, Sharing] = {}
    ranked: Sharing = {}
    for name, layers in sharing.items():
        pattern = layers[name].pattern
        (local.setdefault(pattern, {}) if pattern.local else ranked)[name] = layers
    _check_implied(sparsity, ranked, local)
    groups = [ranked] if scope == "global" else [{name: layers} for name, layers in ranked.items()]
    pools: list[Pool] = [RankedPool(group, sparsity, eps) for group in groups if group]
    return pools + [LocalPool(members, pattern, eps) for pattern, members in local.items()]


def _check_values(sparsity: float | None, scope: str, eps: float | None) -> None:
    if sparsity is not None and not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    if eps is not None and not 0 <= eps < 1:
        raise ValueError(f"eps must be in [0, 1), got {eps}")
    if scope not in SCOPES:
        raise ValueError(f"scope must be 'global' or 'layer', got {scope!r}")


def _check_implied(sparsity: float | None, ranked: Sharing, local: Iterable[NM]) -> None:
    if ranked and sparsity is None:
        raise ValueError(f"sparsity must be given for {', '.join(ranked)}: their patterns imply none, got None")
    for pattern in () if ranked else local:
        if sparsity is not None and abs(sparsity - pattern.sparsity) > 1e-9:
            raise ValueError(f"{pattern} implies sparsity {pattern.sparsity:g}: give that or none, got {sparsity:g}")
