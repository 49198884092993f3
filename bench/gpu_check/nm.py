"""n:m: every form of the product, the packing and the soft mask against float64; then how fast they are.

Exact first: the portable kernel over dtypes, edges and launch configurations, the pack kernels against their
references, sparse tensor cores, 20 repeats of equal bits. Then beside cuBLAS and cuSPARSELt after its algorithm search.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.formats import SemiStructured
from smart_kernels.ops import semi_structured_linear, semi_structured_prune, smart_weight, soft_topk
from smart_kernels.ops.common import transpose
from smart_kernels.ops.tensor_core import KERNELS, kept, matmul, pack, turned, verified
from smart_kernels.patterns import NM, WeightShape
from smart_kernels.reference import common as reference
from smart_kernels.reference import semi_structured as prune

from .. import on_gpu
from .. import semi_structured_linear as bench
from ..case import GPU_SHAPES, Shape
from . import nm_conv, nm_formats, sparse_tensor_core, sparse_tensor_speed
from .check import INTERPRETED, Check, Context, Setting, compare
from .speed import time_module

SHAPES = (Shape("even", 64, 512, 1024, "no edges"), Shape("ragged", 77, 200, 1068, "edges everywhere"))
SMALL_SHAPES = (Shape("small", 19, 72, 268, "edges everywhere"),)
SPEED_SHAPES = (
    *(Shape(f"decode/{M}", M, 14336, 4096, "weight traffic dominates") for M in (1, 16, 64)),
    Shape("8192", 8192, 8192, 8192, "tensor cores dominate"),
    *GPU_SHAPES[1:],
)
GROUPS = ((2, 4), (1, 4), (2, 8), (4, 8))  # n of every m
HALVES = ("fp16", "bf16")
EXTENT = (4096, 14336)  # of the layer whose packing and training step are timed


@dataclass(frozen=True)
class Product:
    """A product with a weight that has n of every m. ``form``: "" or "transposable"."""

    shape: Shape
    n: int = 2
    m: int = 4
    form: str = ""

    @property
    def transposable(self) -> bool:
        """Whether the weight is n:m both ways."""
        return self.form == "transposable"

    def stored(self, device: str, dtype: torch.dtype) -> SemiStructured:
        """Return a random weight in its format."""
        pattern = NM(self.n, self.m, transposable=self.transposable)
        weight = bench.pruned(self.shape, pattern, device, dtype)
        return SemiStructured.from_dense(weight, (1, 1), n=self.n, m=self.m)


def cases(context: Context) -> Iterator[Check]:
    """Yield every form of the product, the soft mask and packing, then what other files check, then speed."""
    for shape in SMALL_SHAPES if context.small else SHAPES:
        yield from _products(context, shape)
        for name, dtype in context.dtypes.items():
            label = f"nm soft mask {shape.name} {name}"
            yield Check(label, partial(soft, context, shape, dtype), family="nm", covers=f"nm soft {name}")
        check = partial(packing, context, shape)
        yield Check(f"nm pack kernels {shape.name}", check, family="nm", covers="nm packing")
    yield Check("nm 20 repeats", partial(repeats, context), family="nm", covers="nm repeats")
    yield from sparse_tensor_core.cases(context)
    yield from sparse_tensor_speed.cases(context)
    yield from nm_conv.cases(context)
    yield from nm_formats.cases(context)
    for shape in SPEED_SHAPES if not context.small else SMALL_SHAPES:
        yield Check(f"speed nm {shape.name}", partial(time_module, bench, (shape,), context), "speed", "nm")
    yield Check("speed nm packing and training step", partial(training, context), "speed", "nm")


def _products(context: Context, shape: Shape) -> Iterator[Check]:
    for setting in context.settings("semi_structured_kernel"):
        for n, m in GROUPS:
            label = f"{n}:{m} {shape.name} {setting}"
            check = partial(product, setting, Product(shape, n, m))
            yield Check(f"nm portable {label}", check, family="nm", covers=f"nm portable {setting}")
        if setting.dtype_name in HALVES:
            label = f"nm transposable 2:4 {shape.name} {setting}"
            check = partial(product, setting, Product(shape, form="transposable"))
            yield Check(label, check, family="nm", covers=f"nm transposable {setting}")


def product(setting: Setting, of: Product) -> dict:
    """Check the product, its bias and all gradients."""
    layer = of.stored(setting.device, setting.dtype)
    x = setting.randn(of.shape.M, of.shape.K)
    bias = setting.randn(of.shape.N)

    def function(x, values, bias):
        return semi_structured_linear(x, values, layer.indices, bias, n=of.n, m=of.m, transposable=of.transposable)

    def definition(x, values, bias):
        return F.linear(x, reference.expand(values, layer.indices, of.n, of.m, of.shape.K), bias)

    return compare(function, definition, (x, layer.values.detach(), bias), setting.config)


def soft(context: Context, shape: Shape, dtype: torch.dtype) -> dict:
    """Check the masked weight of the soft top-k in groups, and its gradients."""
    pattern = NM(2, 4)
    extent = WeightShape(shape.N, 1, shape.K)
    weight = torch.randn(shape.N, shape.K, device=context.device, dtype=dtype)
    scores = torch.randn(shape.N, shape.K, device=context.device)

    def definition(weight, scores):
        return weight * pattern.ungroup(soft_topk(pattern.groups(scores, extent), 2, 0.2)[0], extent)

    return compare(lambda weight, scores: smart_weight(weight, scores, 2, 4, 0.2), definition, (weight, scores))


def packing(context: Context, shape: Shape) -> dict:
    """Check the kernels that prune, pack and transpose against their references, bit for bit."""
    layer = Product(shape, form="transposable").stored(context.device, torch.float16)
    args = layer.values.detach(), layer.indices, shape.K
    dense = torch.randn(shape.N, shape.K, device=context.device, dtype=torch.bfloat16), None
    pairs = [
        *zip(semi_structured_prune(*dense), prune.semi_structured_prune(*dense), strict=True),
        *zip(
            semi_structured_prune(*dense, transposable=True),
            prune.semi_structured_prune_both_ways(*dense),
            strict=True,
        ),
        *zip(transpose(*args), reference.transpose(*args), strict=True),
    ]
    for kernel in ("mma", "wgmma_ss"):  # the two orders of values
        packed, packed_t = (pack(*form, kernel) for form in (args[:2], reference.transpose(*args)))
        forms = (packed.weight, packed.metadata, packed_t.metadata, kernel, shape.N, shape.K)
        pairs += [(turned(*forms), packed_t.weight), (kept(layer.to_dense(), packed.metadata, kernel), packed.weight)]
    return {"ok": all(torch.equal(got, want) for got, want in pairs)}


def repeats(context: Context) -> dict:
    """Check that the sums of shared columns are added in a fixed order: 20 times the same bits."""
    if reason := verified(context.device, "mma", torch.float16):
        return {"ok": True, "skipped": reason}
    N, K = 256, 4096  # so few blocks that programs share the columns of each
    layer = Product(Shape("", 16, N, K, "")).stored(context.device, torch.float16)
    x = torch.randn(16, K, device=context.device, dtype=torch.float16)
    packed = pack(*layer.saved(), "mma")
    with torch.no_grad():
        results = [matmul(x, packed) for _ in range(20)]
    return {"ok": all(torch.equal(result, results[0]) for result in results)}


def training(context: Context) -> dict:
    """Time pruning, packing both ways and one step of a layer; numbers to hold against the goals, nothing to fail."""
    if context.dry or INTERPRETED:
        return {"ok": True, "skipped": "dry run"}
    N, K = EXTENT
    weight = torch.randn(N, K, device=context.device, dtype=torch.bfloat16, requires_grad=True)
    scores = torch.randn(N, K, device=context.device)
    functions = {**_prunings(weight, scores), **_steps(weight, scores)}
    return {"ok": True, **on_gpu.each(functions, "events")}


def _prunings(weight: Tensor, scores: Tensor) -> dict[str, Callable]:
    """Return what makes masks and stored forms of a weight, by the name of its time."""
    N, K = weight.shape
    pattern = NM(2, 4, transposable=True)
    keep = pattern.hard_mask(scores, WeightShape(N, 1, K)).bool()
    values, indices = SemiStructured.from_dense(weight * keep, (1, 1), keep=keep, transposable=True).saved()
    square, other = torch.randn(2, 4096, 4096, device=weight.device, dtype=weight.dtype)
    return {
        "mask_ms": lambda: pattern.hard_mask(scores, WeightShape(N, 1, K)),
        "pack_ms": lambda: SemiStructured.from_dense(weight * keep, (1, 1), keep=keep),
        "prune_and_pack_ms": lambda: semi_structured_prune(weight, scores),
        "prune_and_pack_both_ways_ms": lambda: semi_structured_prune(weight, scores, transposable=True),
        "square_both_ways_ms": lambda: semi_structured_prune(square, transposable=True),
        "square_copy_ms": lambda: other.copy_(square),  # moves 0.94 of the bytes
        "transpose_ms": lambda: transpose(values.detach(), indices, K),
        "soft_mask_ms": lambda: smart_weight(weight.detach(), scores, 2, 4, 0.2),
    }


def _steps(weight: Tensor, scores: Tensor) -> dict[str, Callable]:
    """Return a training step in every order that is exact here, by the name of its time."""
    N, K = weight.shape
    keep = NM(2, 4, transposable=True).hard_mask(scores, WeightShape(N, 1, K)).bool()
    x = torch.randn(4096, K, device=weight.device, dtype=weight.dtype, requires_grad=True)
    build = partial(SemiStructured.from_dense, weight * keep, (1, 1), keep=keep, transposable=True)
    layers = {"step_ms": build()}
    for kernel in KERNELS:
        if verified(weight.device.type, kernel) is None:
            layers[f"step_{kernel}_ms"] = build(layout=kernel)
    functions = {name: lambda layer=layer: layer.linear(x).sum().backward() for name, layer in layers.items()}
    return functions | {"dense_step_ms": lambda: F.linear(x, weight).sum().backward()}
