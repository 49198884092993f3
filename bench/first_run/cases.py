"""Timings of the cases of ``bench``: they lack what the problem needs, and where it ran."""

import math

import torch

from .. import conv2d, linear, soft_topk
from ..case import Problem, Shape
from ..floor import from_l2
from ..rows import Row
from .measured import Measured

SPARSE = ("block_sparse_linear", "masked_linear", "smart_linear", "bsr")  # they read x from L2 block row by block row
BLOCKED = (*SPARSE, "torch-bsr", "torch-bsr-triton")
HALF = ("rows", "decode", "mma", "wgmma_ss", "wgmma_rs", "cusparselt")  # 2:4
LAYERS = {layer.name: layer for layer in conv2d.GPU_LAYERS}
TIMERS = {"eager calls, CUDA events": "events", "replay of a CUDA graph": "graph"}


def row(r: dict) -> Row:
    """Return the row of a timing."""
    shape = Shape(r["shape"].replace("nm-decode/", "decode/"), r["M"], r["N"], r["K"], "")
    dtype = torch.float32 if r["op"] == "soft_topk" else torch.bfloat16
    block = "64x64" if "1x1-256" in shape.name else r["block"]  # one tap is all taps
    problem = Problem(r["op"], shape, block, r["sparsity"], dtype, r["pass_"])
    times = [r[name] for name in ("p20_ms", "p50_ms", "p80_ms")]
    measured = Measured(problem, r["provider"], TIMERS[r["how"]], *times)
    return measured.row(*needs(problem, r["provider"]), speedup=r["speedup"])


def needs(p: Problem, provider: str) -> tuple[float, ...]:
    """Return FLOPs, bytes and bytes from L2, as the cases count them."""
    if p.op == "soft_topk":
        return 0.0, soft_topk.traffic(p.shape)
    tile = tuple(int(size) for size in p.block.partition(":")[0].split("x"))
    layer = LAYERS.get(p.shape.name.rpartition("/")[0])
    share = density(p, tile, layer, provider)
    l2_bytes = from_l2(p, tile, share) if provider in SPARSE else 0.0
    if layer:
        return *layer.needs(p, share), l2_bytes
    return *linear.needs(p.pass_, p.shape, share, p.dtype.itemsize), l2_bytes


def density(p: Problem, tile: tuple[int, ...], layer: conv2d.Layer | None, provider: str) -> float:
    """Return the share of the weights that a provider multiplies: whole blocks, the same number in every block row."""
    if provider in HALF:
        return 0.5
    if provider not in BLOCKED:
        return 1.0
    taps = layer.conv.taps if layer and p.block.endswith(":one") else 1
    cols = taps * math.ceil((layer.C if layer else p.shape.K) / tile[1])
    return max(1, round(cols * (1 - p.sparsity))) / cols
