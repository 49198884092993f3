"""The times of the first run beside the cases of ``bench``: 2:4, decode, whole models, training, the host."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from .. import linear
from ..case import GPU_SHAPES, Problem, Shape
from ..rows import Row
from .measured import mean

BF16 = torch.bfloat16
CUBE = Shape("8192", 8192, 8192, 8192, "tensor cores dominate")
SHAPES = {shape.name: shape for shape in GPU_SHAPES} | {"cube": CUBE}
VIT = Shape("vit-b, 3 layers, 64 images", 64 * 197, 3072, 768, "")
MINILM = Shape("minilm, 3 layers, 1 x 128 tokens", 128, 1536, 384, "")
RESNET = Shape("resnet-50, 64 images, all but one layer dense", 64, 1000, 2048, "only its Linear was pruned")
MODELS = {"vit-b x3 layers, 64 images": VIT, "minilm x3 layers, 1x128": MINILM, "resnet-50 64": RESNET}
ENCODER_LAYERS = 3
SIDES = {"dense": "dense", "best_dense": "best dense", "sparse": "compress_"}
SIDES |= {"dense_compiled": "dense compiled", "sparse_compiled": "compress_ compiled"}
STALE = ("vit-b x3 layers, 64 images", 0.95, "dense_compiled")  # ran as it was not compiled: no time of what it says
TRAINED = Shape("vit-l, 4 layers, 64 images", 64 * 197, 4096, 1024, "forward and backward")
LAYER = Shape("1024x1024/512", 512, 1024, 1024, "what a call costs the host")
FEW = replace(LAYER, name="1024x1024/4", M=4)
CONV = Shape("3x3-64/28/8", 8 * 28 * 28, 64, 576, "")
SCORES = Shape("100000", 1, 100000, 0, "")
CALLS = {  # name of the call -> what it is
    "masked_linear nograd": Problem("masked_linear", LAYER, "64x64", 0.7, BF16, "fwd"),
    "masked_linear step": Problem("masked_linear", LAYER, "64x64", 0.7, BF16, "step"),
    "smart_linear step": Problem("smart_linear", LAYER, "64x64", 0.25, BF16, "step"),
    "SparseLinear inference": Problem("block_sparse_linear", LAYER, "64x64", 0.8, BF16, "fwd"),
    "SparseLinear decode": Problem("block_sparse_linear", FEW, "64x64", 0.8, BF16, "fwd"),
    "2:4 mma inference": Problem("semi_structured_linear", LAYER, "2x4", 0.5, BF16, "fwd"),
    "SparseConv2d inference": Problem("conv2d", CONV, "32x32:one", 0.8, BF16, "fwd"),
    "soft_topk fwd bwd": Problem("soft_topk", SCORES, "1x1", 0.7, torch.float32, "step"),
}


def rows(measures: list[dict]) -> list[Row]:
    """Return the rows of everything that is a time of this project or of what it is held against."""
    found: list[Row] = []
    for r in measures:
        kind, _, rest = r["name"].partition(" ")
        if kind in ("stc", "decode"):
            found += {"stc": two_of_four, "decode": decode}[kind](r, rest)
    models = [row for r in measures for row in model(r)]
    return [*found, *against_dense(models), *training(measures), *host(measures)]


def two_of_four(r: dict, name: str) -> Iterator[Row]:
    """Yield the rows of all products with one 2:4 weight; those in eight bits are held against bf16 as well."""
    problem = Problem("semi_structured_linear", SHAPES[name], "2x4", 0.5, BF16, "fwd")
    for provider, time_ms in ((key[:-3], value) for key, value in r.items() if key.endswith("_ms")):
        dense = provider == "cublas"
        eight = provider in ("int8", "fp8")
        needs = linear.needs("fwd", problem.shape, 1.0 if dense else 0.5, 1 if eight else 2)
        changed = {"speedup": round(r["cublas_ms"] / time_ms, 3)} | ({"dtype": provider} if eight else {})
        yield mean(problem, "dense" if dense else provider, "graph", time_ms).row(*needs, **changed)


def decode(r: dict, name: str) -> Iterator[Row]:
    """Yield the times of a layer of which L2 holds nothing, sparse and dense."""
    N, K, M, block, sparsity = re.fullmatch(r"(\d+)x(\d+) M(\d+) (\w+) ([\d.]+)", name).groups()
    shape = Shape(f"{N}x{K}/{M}", int(M), int(N), int(K), "")
    problem = Problem("decode", shape, block, float(sparsity), BF16, "fwd")
    for provider, time_us in (("dense", r["dense_us"]), ("block_sparse_linear", r["us"])):
        density = 1.0 if provider == "dense" else 1 - float(sparsity)
        needs = linear.needs("fwd", shape, density, BF16.itemsize)
        speedup = round(r["dense_us"] / time_us, 3)
        yield mean(problem, provider, "graph", time_us / 1e3).row(*needs, speedup=speedup)


def model(r: dict) -> Iterator[Row]:
    """Yield the times of a whole model, called and replayed."""
    if not r["name"].startswith("model") or (r["label"], r["sparsity"], r.get("which")) == STALE:
        return
    shape = MODELS[r["label"]]
    block = "x".join(re.findall(r"\d+", r["block"]))
    problem = Problem("model", shape, block, r["sparsity"], BF16, "fwd")
    times = {r["which"]: r["ms"], f"{r['which']}_graph": r["graph_ms"]} if "which" in r else r
    for key, provider in SIDES.items():
        for name, timer in ((key, "events"), (f"{key}_graph", "graph")):
            if name in times:
                choice = r["choice"] if key == "sparse" else ""
                yield mean(problem, provider, timer, times[name]).row(*model_needs(problem), choice=choice)


def model_needs(p: Problem) -> tuple[float, float]:
    """Return FLOPs and bytes of the pruned layers of an encoder; those of the ResNet were not counted."""
    if p.shape is RESNET:
        return 0.0, 0.0
    weights = ENCODER_LAYERS * (4 * p.shape.K**2 + 2 * p.shape.K * p.shape.N) * (1 - p.sparsity)
    activations = ENCODER_LAYERS * p.shape.M * (8 * p.shape.K + 2 * (p.shape.K + p.shape.N))
    return 2.0 * p.shape.M * weights, BF16.itemsize * (weights + activations)


def against_dense(found: Iterable[Row]) -> Iterator[Row]:
    """Yield rows of models with speed-ups against the fastest dense form, to which the zeros are all the same."""
    best: dict[tuple[str, str], float] = {}
    found = list(found)
    for r in found:
        if "dense" in r.provider:
            best[r.shape, r.timer] = min(r.p50_ms, best.get((r.shape, r.timer), r.p50_ms))
    for r in found:
        yield replace(r, speedup=round(best[r.shape, r.timer] / r.p50_ms, 3))


def training(measures: list[dict]) -> Iterator[Row]:
    """Yield the steps of a search as they were called, and the steps of finetuning out of a CUDA graph."""
    dense_ms = [r["ms"] for r in measures if r["name"] == "pruner dense step"][-1]
    for r in measures:
        if r["name"] == "pruner step":
            block = "x".join(re.findall(r"\d+", r["block"]))
            problem = Problem("training", TRAINED, block, r["sparsity"], BF16, "step")
            finetuning_ms = r["end_of_search_model_ms"]
            for provider, time_ms in (("dense", dense_ms), ("finetuning", finetuning_ms)):
                speedup = round(dense_ms / time_ms, 3)
                yield mean(problem, provider, "graph", time_ms).row(0.0, 0.0, speedup=speedup)
            search = mean(problem, "search", "events", r["mean_host_ms"])
            yield search.row(0.0, 0.0, choice="wall clock, mean of 30 steps")


def host(measures: list[dict]) -> Iterator[Row]:
    """Yield what calls cost the host, and beside each product of a Linear what ``F.linear`` costs."""
    us = {r["name"].removeprefix("host "): r["host_us"] for r in measures if r["name"].startswith("host ")}
    for name, problem in CALLS.items():
        provider = {"conv2d": "bsr", "semi_structured_linear": "mma"}.get(problem.op, problem.op)
        yield mean(problem, provider, "host", us[name] / 1e3).row(0.0, 0.0)
        if problem.shape is LAYER:
            dense_us = us["F.linear step" if problem.pass_ == "step" else "F.linear nograd"]
            yield mean(problem, "dense", "host", dense_us / 1e3).row(0.0, 0.0)
