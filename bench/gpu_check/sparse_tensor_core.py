"""2:4 on sparse tensor cores, in the order of what can be wrong: exact on integers, 20 times over, every configuration;
then column by column, where only sp-sel 1 would fail.

Exactness settles what the PTX interpreter cannot: the reading of the metadata and of sp-sel 1, that buffers are where
the assembly looks for them (1024-byte aligned, at their offset), proxy fences, races.
"""

from collections.abc import Iterator
from functools import partial

import torch
from triton.runtime.errors import OutOfResources

from smart_kernels import (
    quantize_fp8,
    quantize_int8,
    quantized_semi_structured_linear,
    quantized_semi_structured_pack,
    semi_structured_prune,
)
from smart_kernels.formats import SemiStructured
from smart_kernels.ops import tensor_core as sparse_tensor_core
from smart_kernels.patterns import NM, WeightShape
from smart_kernels.reference import common as reference

from .check import Check, Context

REPEATS = 20
EXACT = (
    (256, 512, 704),
    (300, 500, 712),
    (1, 456, 1092),
    (700, 1000, 4096),
)  # M, N, K: no edges; edges; a row; persistent
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
EIGHT = {"int8": (torch.int8, quantize_int8), "fp8": (torch.float8_e4m3fn, quantize_fp8)}


def cases(context: Context) -> Iterator[Check]:
    """Yield per kernel: verified, exact, selectors, a layer; then the operators in eight bits."""
    kernels = sparse_tensor_core.KERNELS
    for kernel in kernels:
        yield Check(f"{kernel} verified", partial(verified, context.device, kernel), family=kernel, covers=kernel)
    for kernel in kernels:
        for name, dtype in (HALVES | {name: dtype for name, (dtype, _) in EIGHT.items()}).items():
            for number in range(len(sparse_tensor_core.offered(kernel, dtype))):
                label = f"{kernel} exact {name} config {number}"
                check = partial(exact, context.device, kernel, dtype, number, context.small)
                yield Check(label, check, family=kernel, covers=label)
    for kernel in kernels:
        check = partial(selectors, context.device, kernel)
        yield Check(f"{kernel} selectors", check, family=kernel, covers=f"{kernel} selectors")
        yield Check(f"{kernel} layer", partial(layer, context.device, kernel))
    for name in EIGHT:
        yield Check(f"{name} layer", partial(quantized, context.device, name))


def skipped(device: str, kernel: str, dtype: torch.dtype = torch.bfloat16) -> dict | None:
    """Return the outcome of a check whose kernel is not for this device; None where it is."""
    reason = sparse_tensor_core.supported(device, kernel)
    if reason is None and kernel == "mma":
        reason = sparse_tensor_core.lacks(device, dtype)
    return None if reason is None else {"ok": True, "skipped": reason}


def verified(device: str, kernel: str) -> dict:
    """Run the test that every kernel has to pass before ``compress_`` may choose it."""
    if skip := skipped(device, kernel):
        return skip
    reasons = [sparse_tensor_core.verified(device, kernel, dtype) for dtype in HALVES.values()]
    return {"ok": not any(reasons), "reasons": [reason for reason in reasons if reason]}


def exact(device: str, kernel: str, dtype: torch.dtype, number: int, small: bool) -> dict:
    """Check integers, bias, residual and relu, the same bits every time; the formula alone where there is no GPU."""
    config = sparse_tensor_core.offered(kernel, dtype)[number]
    wrong: list[str] = []
    shapes, repeats = (EXACT[2:3], 2) if small and device != "cpu" else (EXACT, REPEATS)
    for shape in shapes:
        x, values, indices, bias, residual, expected = sparse_tensor_core.integers(shape, dtype, torch.device(device))
        packed = sparse_tensor_core.pack(values, indices, kernel)
        scale = sparse_tensor_core.scales(shape[1], dtype, x.device)
        if skip := skipped(device, kernel, dtype):
            return skip | {"packed": list(packed.shape)}
        with sparse_tensor_core.forced(kernel, config):
            for _ in range(repeats):
                try:
                    y = sparse_tensor_core.matmul(x, packed, bias, residual, "relu", scale, expected.dtype)
                except OutOfResources as error:
                    return {"ok": True, "skipped": str(error)}  # the tuner would drop this configuration here
                wrong += [] if torch.equal(y, expected) else [f"{shape}: {int((y != expected).sum())} values"]
    return {"ok": not wrong, "wrong": wrong[:3], "runs": repeats * len(shapes)}


def selectors(device: str, kernel: str) -> dict:
    """Name the steps of 32 columns (odd ones: sp-sel 1) that are read wrongly; one column of x at a time is not 0."""
    if skip := skipped(device, kernel):
        return skip
    K = 128
    _, values, indices, *_ = sparse_tensor_core.integers((1, 128, K), torch.bfloat16, torch.device(device))
    packed = sparse_tensor_core.pack(values, indices, kernel)
    x = torch.eye(K, device=device, dtype=torch.bfloat16)
    wrong = (dense(values, indices) != sparse_tensor_core.matmul(x, packed).T).any(0).nonzero().flatten()
    return {"ok": not len(wrong), "steps of 32": sorted({int(k) // 32 for k in wrong})}


def layer(device: str, kernel: str) -> dict:
    """Check a layer as ``compress_`` builds it: inference and training on the kernel, 2:4 both ways or not."""
    if reason := sparse_tensor_core.verified(device, kernel):
        return {"ok": True, "skipped": reason}
    x, values, indices, *_ = sparse_tensor_core.integers((300, 456, 1096), torch.bfloat16, torch.device(device))
    weight = dense(values, indices)
    both_ways = NM(2, 4, transposable=True).hard_mask(weight.abs(), WeightShape(456, 1, 1096)).bool()
    ok = [*_trains(x, weight, kernel, False), *_trains(x, weight * both_ways, kernel, True)]
    return {"ok": all(ok), "right": ok}


def _trains(x: torch.Tensor, weight: torch.Tensor, kernel: str, transposable: bool) -> list[bool]:
    """Return what holds of a layer: its product, the product that trains, its weight, where it ran, both gradients."""
    stored = SemiStructured.from_dense(weight, (1, 1), layout=kernel, transposable=transposable)
    expected = (x.double() @ weight.double().T).to(x.dtype)
    with torch.inference_mode():
        ok = [torch.equal(stored.linear(x), expected)]
    x_ = x.clone().requires_grad_()
    dy = torch.randint_like(x[:, :1], -3, 4).expand(-1, len(weight))
    y = stored.linear(x_)
    y.backward(dy)
    ok += [torch.equal(y, expected)]
    dweight = torch.where(weight != 0, (dy.double().T @ x.double()).to(x.dtype), 0)
    with torch.no_grad():
        ok += [torch.equal(stored.to_dense(), weight), stored._on_tensor_cores(x_, None)]
        stored.values.copy_(stored.values.grad)
    ok += [torch.equal(x_.grad, (dy.double() @ weight.double()).to(x.dtype))]
    return [*ok, torch.equal(torch.where(weight != 0, stored.to_dense(), 0), dweight)]


def quantized(device: str, name: str) -> dict:
    """Check the public operator on random numbers, with edges, against float64 of the quantized ones."""
    dtype, quantize = EIGHT[name]
    if device != "cpu" and (skip := skipped(device, sparse_tensor_core.words_kernel(device, dtype), dtype)):
        return skip
    values, indices = semi_structured_prune(torch.randn(456, 1100, device=device))
    values, scale = quantize(values, "block")
    x, x_scale = quantize(torch.randn(300, 1100, device=device))
    weight = reference.expand(values.double(), indices, 2, 4, 1100) * scale.double()[:, None]
    exact = x.double() * x_scale.double() @ weight.T
    packed = quantized_semi_structured_pack(values, indices)
    y = quantized_semi_structured_linear(x, packed, scale * x_scale, out_dtype=torch.float32)
    error = ((y - exact).norm() / exact.norm()).item()
    return {"ok": error < 1e-4, "errors": [error]}


def dense(values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Return the (N, K) weight of a saved form with an even number of groups."""
    nibbles = torch.stack([indices & 15, indices >> 4], -1).flatten(1).long()
    places = torch.stack([nibbles & 3, nibbles >> 2], -1)
    out = values.new_zeros(*nibbles.shape, 4).scatter_(2, places, values.view(*nibbles.shape, 2))
    return out.flatten(1)
