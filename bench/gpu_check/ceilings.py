"""The limits of the device: copies, the L2 cache, dense and 2:4 products, a launch; the rest is held to them."""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.convert.measure.timing import capture
from smart_kernels.ops import masked_linear

from .. import l2, timing
from ..case import DTYPES
from ..floor import Limits
from .check import INTERPRETED, Check, Context

CALLS = 1000
CEILINGS = "ceilings"
L2 = "ceiling L2"


def cases(context: Context) -> Iterator[Check]:
    """Yield the ceilings per dtype, that of 2:4 products and the cost of a launch."""
    for name, dtype in sorted(DTYPES.items()):  # bf16 first: what is timed is held to it
        if context.dry:
            yield Check(f"{CEILINGS} {name}", lambda: {"ok": True, "skipped": "dry run"}, "limit")
        else:
            yield Check(f"{CEILINGS} {name}", partial(ceilings, context.device, dtype), "limit")
    yield Check(L2, partial(cache, context.device), "limit")
    yield Check("ceiling 2:4 cuSPARSELt", partial(semi_structured, context.device), "limit")
    yield Check("launch overhead", partial(launches, context.device, 3 if context.dry else CALLS), "limit")


def known(results: Iterable[dict]) -> dict[str, Limits]:
    """Return the limits by the name of a dtype that results of this part have found."""
    found = {r["name"]: r for r in results if r["ok"] and not r.get("skipped")}
    rate = found[L2]["gbps"] * 1e9 if L2 in found else None
    rates = {name: found.get(f"{CEILINGS} {name}") for name in DTYPES}
    return {name: Limits(r["tflops"] * 1e12, r["copy_gbps"] * 1e9, rate) for name, r in rates.items() if r}


def cache(device: str) -> dict:
    """Measure the bytes/s from L2; before that, or where it cannot run, check that it reads what it says."""
    small = (7, 64), (3, 5)
    source = l2.values("cpu" if device == "cpu" else "cuda", *small[0])
    read = l2.read if device != "cpu" or INTERPRETED else l2.expected
    right = torch.equal(read(source, *small[1]), l2.expected(source, *small[1]))
    if device == "cpu":
        return {"ok": right, "skipped": "no GPU"}
    return {"ok": right, "gbps": l2.rate() / 1e9}


def ceilings(device: str, dtype: torch.dtype) -> dict:
    """Measure the largest FLOP/s and bytes/s."""
    found = timing.ceilings(device, dtype)
    return {"ok": True, "tflops": found.peak / 1e12, "copy_gbps": found.bandwidth / 1e9}


def semi_structured(device: str) -> dict:
    """Time cuSPARSELt at 8192^3 in bf16, default and searched algorithm, FLOPs counted as dense ones."""
    if device == "cpu":
        return {"ok": True, "skipped": "no GPU"}
    n = 8192
    weight = two_of_four(torch.randn(n, n, device=device, dtype=torch.bfloat16))
    x = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    packed = torch._cslt_compress(weight)
    searched = torch._cslt_sparse_mm_search(packed, x.T)
    products = {
        "dense": lambda: F.linear(x, weight),
        "default": lambda: torch._cslt_sparse_mm(packed, x.T),
        "searched": lambda: torch._cslt_sparse_mm(packed, x.T, alg_id=searched),
    }
    times = timing.time_each(list(products.values()), device)
    rates = {f"{name}_tflops": 2e-9 * n**3 / t.p50_ms for name, t in zip(products, times, strict=True)}
    return {"ok": True, "algorithm": searched, **rates}


def two_of_four(weight: Tensor) -> Tensor:
    """Keep the two largest of every four neighbours in a row; the others become 0."""
    groups = weight.unflatten(-1, (-1, 4))
    small = groups.abs().argsort(-1)[..., :2]
    return groups.scatter(-1, small, 0.0).flatten(-2)


def launches(device: str, calls: int) -> dict:
    """Time a call of a torch op and of ours on the host, and the replay of a CUDA graph of each."""
    x = torch.randn(16, 64, device=device)
    weight = torch.randn(64, 64, device=device)
    mask = torch.ones(1, 1, device=device)
    ops = {
        "linear": lambda: torch.mm(x, weight),
        "masked_linear": lambda: masked_linear(x, weight, mask, tile=(64, 64)),
    }
    found = {}
    with torch.no_grad():
        for name, op in ops.items():
            found[f"{name}_us"] = microseconds(op, device, calls)
            if device == "cuda":
                found[f"{name}_graph_us"] = microseconds(capture(op), device, calls)
    return {"ok": True, **found}


def microseconds(function: Callable, device: str, calls: int) -> float:
    """Return the mean time of many calls, the last one waited for."""
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    if device == "cuda":
        torch.cuda.synchronize()
    return round(1e6 * (time.perf_counter() - start) / calls, 2)
