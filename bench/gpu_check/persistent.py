"""The persistent form of the product with blocks (sm_90): exact in every configuration, many times over; then its time
beside that of the plain form and cuBLAS."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
import triton

from smart_kernels.ops import block_sparse_linear
from smart_kernels.ops.block_sparse import block_index
from smart_kernels.ops.common import Form, configurations, only_way, right, verified

from .. import on_gpu
from ..block_sparse_linear import to_bsr
from ..case import GPU_SHAPES, Shape
from ..linear import expand, random_mask
from .check import Check, Context

REPEATS = 20  # of each exact product: what is missing between the groups shows now and then
HALF, BF16 = torch.float16, torch.bfloat16
FORMS = {  # dtype, out, block, transposed, slots, order, bias, residual
    "64x64": Form(BF16, BF16, (64, 64), False, False, True, True, None),
    "64x64 of a gradient": Form(BF16, BF16, (64, 64), True, True, False, False, None),
    "128x128": Form(BF16, BF16, (128, 128), False, False, True, False, None),
    "128x64 fp16": Form(HALF, HALF, (128, 64), False, True, True, True, None),
    "64x128 of a gradient": Form(HALF, HALF, (64, 128), True, True, True, False, None),
    "256x128 residual": Form(BF16, BF16, (256, 128), False, False, True, True, BF16),
}
BLOCKS = ((64, 64), (128, 128))
SPARSITIES = (0.0, 0.8)
WAYS = ("plain", "persistent")


def cases(context: Context) -> Iterator[Check]:
    """Yield what checks every configuration of a form, and what times both forms per shape and block."""
    for name, form in FORMS.items():
        for number, config in enumerate(configurations(form)):
            label = f"persistent {name} config {number}"
            check = partial(exact, context.device, form, config)
            yield Check(label, check, family="persistent", covers=label)
    for shape in GPU_SHAPES[1:3]:
        for block in BLOCKS:
            label = f"persistent speed {shape.name} {block[0]}x{block[1]}"
            yield Check(label, partial(speed, context, shape, block), "speed", "persistent")


def exact(device: str, form: Form, config: triton.Config) -> dict:
    """Check integers many times."""
    if device == "cpu" or torch.cuda.get_device_capability(device) != (9, 0):
        return {"ok": True, "skipped": "wgmma exists on sm_90 only"}
    wrong = sum(not right(torch.device(device), form, config) for _ in range(REPEATS))
    return {"ok": not wrong, "wrong": wrong, "runs": REPEATS}


def speed(context: Context, shape: Shape, block: tuple[int, int]) -> dict:
    """Time cuBLAS and both forms out of CUDA graphs, dense and at 80 %, with blocks stored and long rows first."""
    if context.dry or context.device == "cpu":
        return {"ok": True, "skipped": "dry run"}
    device = torch.device(context.device, torch.cuda.current_device())
    if reason := verified(device, Form(BF16, BF16, block, False, False, True, False, None)):
        return {"ok": True, "skipped": reason}
    x = torch.randn(shape.M, shape.K, device=device, dtype=BF16)
    weight = torch.randn(shape.N, shape.K, device=device, dtype=BF16)
    found = {"cublas_ms": on_gpu.time(lambda: F.linear(x, weight), "graph").p50_ms}
    for sparsity in SPARSITIES:
        mask = random_mask(shape, block, sparsity, context.device)
        values, crow, col = to_bsr(weight * expand(mask, block, shape).to(BF16), mask, block)
        call = partial(block_sparse_linear, x, values, crow, col, out_features=shape.N,
                       index=block_index(crow, col, mask.shape[1]))  # fmt: skip
        for way in WAYS:
            with only_way(way):
                found[f"{way} {sparsity:.0%} ms"] = on_gpu.time(call, "graph").p50_ms
    return {"ok": True, **found}
