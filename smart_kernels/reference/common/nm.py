"""n of every m weights: the saved form, from it to dense matrices and back.

    group of m = 4        values    indices           A row of C weights has G = ceil(C / m) groups and stores G * n
    [ 0  a  0  b ]        a b       1 3               values and as many indices of ceil(log2 m) bits, the first in
    [ c  0  0  0 ]        c 0       0 1               the lowest bits of the first byte. Indices rise in each group.

A group with fewer than n weights to keep stores zeros for the rest, -0.0 before 0.0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.shapes import groups_of, index_bits


def compress(weight: Tensor, keep: Tensor, n: int, m: int) -> tuple[Tensor, Tensor]:
    """Turn (N, K) and what to keep of it into values (N, G * n) and indices (N, ceil(G * n * bits / 8)) uint8.

    Raises:
        ValueError: a group keeps more than n.
    """
    count = groups_of(weight.shape[1], m)
    groups, kept = (F.pad(t, (0, count * m - t.shape[1])).unflatten(1, (count, m)) for t in (weight, keep))
    if (most := int(kept.sum(-1).max()) if kept.numel() else 0) > n:
        raise ValueError(f"every {m} weights must have at most {n} to keep for {n}:{m}, got {most}")
    groups = torch.where(kept | (groups == 0), groups, 0)
    order = (2 * kept.byte() + groups.signbit()).argsort(dim=-1, descending=True, stable=True)
    places = order[..., :n].sort(-1).values
    return groups.gather(-1, places).flatten(1), pack(places.flatten(1), index_bits(m))


def expand(values: Tensor, indices: Tensor, n: int, m: int, K: int) -> Tensor:
    """Invert ``compress``: (N, K), differentiable in ``values``."""
    columns = columns_of(indices, n, m, K)
    dense = values.new_zeros(len(values), groups_of(K, m) * m).scatter(1, columns, values)
    return dense[:, :K].contiguous()


def columns_of(indices: Tensor, n: int, m: int, K: int) -> Tensor:
    """Return the (N, G * n) int64 column of each stored value; at least K where a group reaches beyond the edge."""
    groups = groups_of(K, m)
    places = unpack(indices, index_bits(m), groups * n).unflatten(1, (groups, n)).long()
    return (places + torch.arange(groups, device=places.device)[:, None] * m).flatten(1)


def pack(indices: Tensor, bits: int) -> Tensor:
    """Pack (R, L) into (R, ceil(L * bits / 8)) uint8, lowest bits first."""
    ones = (indices.byte()[..., None] >> _counting(bits, indices)) & 1
    ones = F.pad(ones.flatten(1), (0, -(indices.shape[1] * bits) % 8)).unflatten(1, (-1, 8))
    return (ones << _counting(8, indices)).sum(-1, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, length: int) -> Tensor:
    """Invert ``pack``: (R, length) uint8."""
    ones = ((packed[..., None] >> _counting(8, packed)) & 1).flatten(1)[:, : length * bits]
    return (ones.unflatten(1, (length, bits)) << _counting(bits, packed)).sum(-1, dtype=torch.uint8)


def transpose(values: Tensor, indices: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """Turn 2:4 values and indices of W (N, K) into those of W.T, which is 2:4 as well; 4 divides N and K."""
    columns = columns_of(indices, 2, 4, K)
    keep = torch.zeros(len(values), K, dtype=torch.bool, device=values.device).scatter_(1, columns, True)
    return compress(expand(values, indices, 2, 4, K).T, keep.T, 2, 4)


def _counting(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, dtype=torch.uint8, device=like.device)
