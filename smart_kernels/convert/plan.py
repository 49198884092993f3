"""What a pruned layer could run as."""

from torch import Tensor, nn

from smart_kernels.formats import BSR, ELL, FORMATS, Compact, Format
from smart_kernels.nn.sparse import SparseConv2d, SparseLinear
from smart_kernels.nn.sparse_base import Sparse, geometry, matrix
from smart_kernels.patterns import NM, Channel, Pattern, WeightShape
from smart_kernels.reference import tiles

DENSE = ("dense", "packed")  # what a dense layer may run as; the best of them is the baseline of every speed-up
BACKENDS = (*DENSE, "compact", "ell", "bsr")
TILES = ((128, 128), (128, 64), (64, 128), (64, 64), (64, 32), (32, 64), (32, 32), (128, 8), (64, 16), (32, 16))
TILES += ((16, 32), (16, 16), (32, 8), (8, 32), (16, 8), (8, 16), (8, 8))
EXPLAINED = 0.99  # fraction of the zeros that lies in dead tiles; single weights may be 0 by chance
VARIANTS = (("onednn", 1), ("onednn", 2), ("onednn", 4), ("onednn", 8), ("bmm", 1), ("bmm", 2), ("bmm", 4), ("bmm", 8))
ELL_ROWS = 8  # shorter tiles gather more than they multiply


def weight_shape(layer: nn.Linear | nn.Conv2d) -> WeightShape:
    """(N, taps, C) of a plain layer."""
    N, C, *size = layer.weight.shape
    return WeightShape(N, size[0] * size[1] if size else 1, C)


def explaining_tile(weight: Tensor, taps: int) -> tuple[int, int] | None:
    """The largest tile that the zeros of an (N, taps * C) weight are made of, or None."""
    zeros = (weight == 0).sum().item()
    if not zeros:
        return None
    live = weight.ne(0).float().unflatten(1, (taps, -1)).unbind(1)
    size = live[0].shape
    for tile in TILES:
        if tile[0] > size[0] or tile[1] > size[1]:
            continue
        cost = tiles.cost(size, tile).to(weight.device)
        dead = sum(cost[tiles.reduce_sum(tap, tile) == 0].sum().item() for tap in live)
        if dead >= EXPLAINED * zeros:
            return tile
    return None


def tile_of(layer: nn.Linear | nn.Conv2d, pattern: Pattern | None) -> tuple[int, int] | None:
    """The tile to store a layer with: the pattern's, or the one its zeros show; None without one."""
    if pattern is None:
        return explaining_tile(matrix(layer), weight_shape(layer).taps)
    if isinstance(pattern, NM | Channel):
        return None
    return pattern.tile(weight_shape(layer))


def missing_kernel(layer: nn.Linear | nn.Conv2d, pattern: Pattern | None) -> str:
    """A line for the report on zeros that nothing here leaves out, N:M and grouped convolutions; else empty."""
    if getattr(layer, "groups", 1) > 1:
        kind = "depthwise" if layer.groups == layer.in_channels else "grouped"
        return f"{kind} convolution: stays dense" if (layer.weight == 0).any() else ""
    if pattern is None and weight_shape(layer).C % 4 == 0:
        groups = matrix(layer).unflatten(1, (-1, 4)).ne(0).sum(-1)
        pattern = NM(2, 4) if groups.max() == 2 and groups.float().mean() > 1.9 else None
    return f"{pattern}: stored dense, there is no N:M kernel yet" if isinstance(pattern, NM) else ""


def sparse_format(layer: nn.Linear | nn.Conv2d, name: str, tile: tuple[int, int] | None, **options) -> Format:
    """The weight of a layer in the named format.

    Raises:
        ValueError: where that format cannot hold it.
    """
    return FORMATS[name].from_dense(matrix(layer), tile or (1, 1), taps=weight_shape(layer).taps, **options)


def wrap(format: Format, layer: nn.Linear | nn.Conv2d) -> Sparse:
    """The layer with its weight in ``format``."""
    if isinstance(layer, nn.Conv2d):
        return SparseConv2d.from_format(format, layer.bias, layer).train(layer.training)
    return SparseLinear.from_format(format, layer.bias).train(layer.training)


def candidates(
    layer: nn.Linear | nn.Conv2d, tile: tuple[int, int] | None, backends: tuple[str, ...]
) -> dict[str, nn.Module]:
    """Everything the layer could run as, by label; ``"dense"`` is the layer itself."""
    if isinstance(layer, nn.Conv2d):
        try:
            geometry(layer)
        except ValueError:
            return {"dense": layer}
    found: dict[str, nn.Module] = {"dense": layer}
    for name in backends:
        if name != "dense":
            found |= _variants(layer, name, tile)
    return found


def _variants(layer: nn.Linear | nn.Conv2d, name: str, tile: tuple[int, int] | None) -> dict[str, nn.Module]:
    weight, taps = matrix(layer), weight_shape(layer).taps
    try:
        if name == "packed":
            return {name: wrap(sparse_format(layer, name, tile), layer)}
        if name == "compact":
            compact = Compact.from_dense(weight, (1, 1), taps=taps)
            return {name: wrap(compact, layer)} if compact.values.numel() < weight.numel() else {}
        if tile is None or (weight != 0).all():
            return {}
        bsr = BSR.from_dense(weight, tile, taps=taps)
    except ValueError:
        return {}
    return {name: wrap(bsr, layer)} if name == "bsr" else _ell(layer, bsr)


def _ell(layer: nn.Linear | nn.Conv2d, bsr: BSR) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    if bsr.tile[0] < ELL_ROWS or layer.weight.device.type != "cpu":
        return found
    kinds = bsr.blocks().ne(0).any(-1).any(-1).any(1).sum(1).unique().count_nonzero().item()
    for engine, buckets in VARIANTS:
        if buckets > 1 and buckets // 2 >= kinds:
            continue  # no more buckets than with half as many
        try:
            found[f"ell {engine} {buckets}"] = wrap(ELL.from_bsr(bsr, engine, buckets), layer)
        except ValueError:
            continue
    return found
