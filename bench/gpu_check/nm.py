"""n:m: every form of the product, the packing and the soft mask against float64; then how fast they are.

Exact first: portable kernel and kernel for few rows over dtypes, edges and launch configurations, 20 repeats of equal
bits, the pack kernels against their references. Then beside cuBLAS and cuSPARSELt after its algorithm search.
"""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

from smart_kernels.formats import SemiStructured
from smart_kernels.ops import semi_structured_linear, semi_structured_prune, smart_weight, soft_topk
from smart_kernels.ops.common import decode_words, transpose
from smart_kernels.ops.tensor_core import KERNELS, kept, pack, turned, verified
from smart_kernels.patterns import NM, WeightShape
from smart_kernels.reference import common as reference
from smart_kernels.reference import semi_structured as prune

from .. import semi_structured_linear as bench
from .. import timing
from ..case import GPU_SHAPES, Shape
from . import nm_conv, nm_formats, sparse_tensor_core
from .check import INTERPRETED, Check, Context, compare
from .speed import measure

SHAPES = (Shape("even", 64, 512, 1024, "no edges"), Shape("ragged", 77, 200, 1068, "edges everywhere"))
SMALL_SHAPES = (Shape("small", 19, 72, 268, "edges everywhere"),)
SPEED_SHAPES = (
    *(Shape(f"decode/{M}", M, 14336, 4096, "weight traffic dominates") for M in (1, 16, 64)),
    Shape("8192", 8192, 8192, 8192, "tensor cores dominate"),
    *GPU_SHAPES[1:],
)
KEPT = ((2, 4), (1, 4), (2, 8), (4, 8))
HALVES = ("fp16", "bf16")
EXTENT = (4096, 14336)  # of the layer whose packing and training step are timed


def cases(context: Context) -> Iterator[Check]:
    for shape in SMALL_SHAPES if context.small else SHAPES:
        for name, dtype in context.dtypes.items():
            for config in context.configs:
                for n, m in KEPT:
                    label = f"{n}:{m} {shape.name} {name} config {config}"
                    yield Check(f"nm portable {label}", partial(product, context, shape, (n, m), dtype, config, ""))
                if name in HALVES:
                    for form in ("few rows", "transposable"):
                        label = f"nm {form} 2:4 {shape.name} {name} config {config}"
                        yield Check(label, partial(product, context, shape, (2, 4), dtype, config, form))
            yield Check(f"nm soft mask {shape.name} {name}", partial(soft, context, shape, dtype))
        yield Check(f"nm pack kernels {shape.name}", partial(packing, context, shape))
    yield Check("nm 20 repeats", partial(repeats, context))
    yield from sparse_tensor_core.cases(context)
    yield from nm_conv.cases(context)
    yield from nm_formats.cases(context)
    for shape in SPEED_SHAPES if not context.small else SMALL_SHAPES:
        yield Check(f"speed nm {shape.name}", partial(measure, bench, (shape,), context))
    yield Check("speed nm packing and training step", partial(training, context))


def stored(context: Context, shape: Shape, kept: tuple[int, int], dtype: torch.dtype, form: str = ""):
    """The format of a random weight."""
    pattern, columns = NM(*kept, transposable=form == "transposable"), shape.K
    weight = bench.pruned(Shape("", 0, shape.N, columns, ""), pattern, context.device, dtype)
    return SemiStructured.from_dense(weight, (1, 1), n=kept[0], m=kept[1])


def product(context, shape: Shape, kept: tuple[int, int], dtype: torch.dtype, config: int, form: str) -> dict:
    layer = stored(context, shape, kept, dtype, form)
    indices = decode_words(layer.indices, shape.K) if form else layer.indices
    x = torch.randn(shape.M, shape.K, device=context.device, dtype=dtype)
    bias = torch.randn(shape.N, device=context.device, dtype=dtype)
    settings = {"n": kept[0], "m": kept[1], "transposable": form == "transposable"}

    def function(x, values, bias):
        return semi_structured_linear(x, values, indices, bias, **settings)

    def definition(x, values, bias):
        return F.linear(x, reference.expand(values, layer.indices, *kept, shape.K), bias)

    return compare(function, definition, (x, layer.values.detach(), bias), config)


def soft(context: Context, shape: Shape, dtype: torch.dtype) -> dict:
    pattern, extent = NM(2, 4), WeightShape(shape.N, 1, shape.K)
    weight = torch.randn(shape.N, shape.K, device=context.device, dtype=dtype)
    scores = torch.randn(shape.N, shape.K, device=context.device)

    def definition(weight, scores):
        return weight * pattern.ungroup(soft_topk(pattern.groups(scores, extent), 2, 0.2)[0], extent)

    return compare(lambda weight, scores: smart_weight(weight, scores, 2, 4, 0.2), definition, (weight, scores))


def packing(context: Context, shape: Shape) -> dict:
    layer = stored(context, shape, (2, 4), torch.float16, "transposable")
    args = layer.values.detach(), layer.indices, shape.K
    dense = torch.randn(shape.N, shape.K, device=context.device, dtype=torch.bfloat16), None
    pairs = [
        *zip(semi_structured_prune(*dense), prune.semi_structured_prune(*dense), strict=True),
        *zip(
            semi_structured_prune(*dense, transposable=True),
            prune.semi_structured_prune_both_ways(*dense),
            strict=True,
        ),
        (decode_words(*args[1:]), reference.decode_words(*args[1:])),
        *zip(transpose(*args), reference.transpose(*args), strict=True),
    ]
    for kernel in ("mma", "wgmma_ss"):  # the two orders of values
        packed, packed_t = (pack(*form, kernel) for form in (args[:2], reference.transpose(*args)))
        forms = (packed.weight, packed.metadata, packed_t.metadata, kernel, shape.N, shape.K)
        pairs += [(turned(*forms), packed_t.weight), (kept(layer.to_dense(), packed.metadata, kernel), packed.weight)]
    return {"ok": all(torch.equal(got, want) for got, want in pairs)}


def repeats(context: Context) -> dict:
    """Split sums are added in a fixed order."""
    shape = SMALL_SHAPES[0] if context.small else SHAPES[0]
    layer = stored(context, shape, (2, 4), torch.float16)
    x = torch.randn(16, shape.K, device=context.device, dtype=torch.float16)
    words = decode_words(layer.indices, shape.K)
    with torch.no_grad():
        results = [semi_structured_linear(x, layer.values, words) for _ in range(20)]
    return {"ok": all(torch.equal(result, results[0]) for result in results)}


def training(context: Context) -> dict:
    """Prune, pack both ways and one step of a layer; numbers to hold against the goals, nothing to fail."""
    if context.dry or INTERPRETED:
        return {"ok": True, "skipped": "dry run"}
    (N, K), device, pattern = EXTENT, context.device, NM(2, 4, transposable=True)
    scores = torch.randn(N, K, device=device)
    x, weight = (torch.randn(rows, K, device=device, dtype=torch.bfloat16, requires_grad=True) for rows in (4096, N))
    keep = pattern.hard_mask(scores, WeightShape(N, 1, K)).bool()
    layer = SemiStructured.from_dense(weight * keep, (1, 1), keep=keep, transposable=True)
    values, indices = layer.saved()
    square, other = torch.randn(2, 4096, 4096, device=device, dtype=torch.bfloat16)
    functions = {
        "mask_ms": lambda: pattern.hard_mask(scores, WeightShape(N, 1, K)),
        "pack_ms": lambda: SemiStructured.from_dense(weight * keep, (1, 1), keep=keep),
        "prune_and_pack_ms": lambda: semi_structured_prune(weight, scores),
        "prune_and_pack_both_ways_ms": lambda: semi_structured_prune(weight, scores, transposable=True),
        "square_both_ways_ms": lambda: semi_structured_prune(square, transposable=True),
        "square_copy_ms": lambda: other.copy_(square),  # moves 0.94 of the bytes
        "transpose_ms": lambda: transpose(values.detach(), indices, K),
        "step_ms": lambda: layer.linear(x).sum().backward(),
        "dense_step_ms": lambda: F.linear(x, weight).sum().backward(),
        "soft_mask_ms": lambda: smart_weight(weight.detach(), scores, 2, 4, 0.2),
    }
    for kernel in KERNELS:
        if verified(device, kernel) is None:
            trains = SemiStructured.from_dense(weight * keep, (1, 1), keep=keep, layout=kernel, transposable=True)
            functions[f"step_{kernel}_ms"] = lambda trains=trains: trains.linear(x).sum().backward()
    times = timing.measure(list(functions.values()), device)
    return {"ok": True, **{name: t.p50_ms for name, t in zip(functions, times, strict=True)}}
