"""How fast 2:4 runs on sparse tensor cores, beside cuBLAS and cuSPARSELt."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F

from smart_kernels import quantized_semi_structured_linear, quantized_semi_structured_pack
from smart_kernels.ops import tensor_core as sparse_tensor_core

from .. import on_gpu
from ..case import GPU_SHAPES, Shape
from .check import Check, Context
from .sparse_tensor_core import EIGHT, dense, skipped

SPEED = (Shape("cube", 8192, 8192, 8192, "the tensor cores alone"), *GPU_SHAPES)


def cases(context: Context) -> Iterator[Check]:
    """Yield one check per shape."""
    for shape in SPEED[:1] if context.small else SPEED:
        yield Check(f"sparse tensor core speed {shape.name}", partial(speed, context, shape), "speed", "tensor core")


def speed(context: Context, shape: Shape) -> dict:
    """Time cuBLAS, cuSPARSELt with its own search of algorithms, and every kernel that is exact here."""
    if context.dry or (skip := skipped(context.device, "mma")):
        return {"ok": True, "skipped": "dry run" if context.dry else skip["skipped"]}
    N, K = shape.N, shape.K
    _, values, indices, *_ = sparse_tensor_core.integers((1, N, K), torch.bfloat16, torch.device(context.device))
    x = torch.randn(shape.M, K, device=context.device, dtype=torch.bfloat16)
    values = torch.randn_like(values)
    weight = dense(values, indices)
    sixteen = {"cublas": lambda: F.linear(x, weight)} | cusparselt(x, weight)
    for kernel in sparse_tensor_core.KERNELS:
        if sparse_tensor_core.verified(context.device, kernel) is None:
            packed = sparse_tensor_core.pack(values, indices, kernel)
            sixteen[kernel] = partial(sparse_tensor_core.matmul, x, packed)
    expected = sixteen["cublas"]().float()
    errors = [((f().float() - expected).norm() / expected.norm()).item() for f in sixteen.values()]
    functions = sixteen | _eight_bits(x, values, indices)
    named = {f"{name}_ms": function for name, function in functions.items()}
    return {"ok": max(errors) < 1e-2, "errors": errors, **on_gpu.each(named, "graph")}


def _eight_bits(x: torch.Tensor, values: torch.Tensor, indices: torch.Tensor) -> dict[str, Callable]:
    """Return the products in int8 and fp8 that are exact here, by name."""
    functions = {}
    for name, (dtype, quantize) in EIGHT.items():
        kernel = sparse_tensor_core.words_kernel(x.device.type, dtype)
        if sparse_tensor_core.verified(x.device.type, kernel, dtype) is None:
            narrow, scale = quantize(values, "block")
            x8, x_scale = quantize(x)
            packed = quantized_semi_structured_pack(narrow, indices)
            functions[name] = partial(quantized_semi_structured_linear, x8, packed, scale * x_scale)
    return functions


def cusparselt(x: torch.Tensor, weight: torch.Tensor) -> dict:
    """Return torch's cuSPARSELt with its best algorithm for this shape; nothing where torch has none."""
    try:
        packed = torch._cslt_compress(weight)
        best = torch._cslt_sparse_mm_search(packed, x.T, transpose_result=True)
        call = partial(torch._cslt_sparse_mm, packed, x.T, alg_id=best, transpose_result=True)
        return {"cusparselt": call} if call().shape == (len(x), len(weight)) else {"cusparselt": lambda: call().T}
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        print(f"    cuSPARSELt: {type(error).__name__}: {str(error)[:100]}", flush=True)
        return {}
