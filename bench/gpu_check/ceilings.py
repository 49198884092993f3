"""What the device can do: copy bandwidth, dense matrix products, the cost of a launch; the rest is held to it."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from smart_kernels.ops import masked_linear

from .. import timing
from ..case import DTYPES
from .check import Check, Context

CALLS = 1000


def cases(context: Context) -> Iterator[Check]:
    for name, dtype in DTYPES.items():
        if context.dry:
            yield Check(f"ceilings {name}", lambda: {"ok": True, "skipped": "dry run"})
        else:
            yield Check(f"ceilings {name}", partial(ceilings, context.device, dtype))
    yield Check("launch overhead", partial(launches, context.device, 3 if context.dry else CALLS))


def ceilings(device: str, dtype: torch.dtype) -> dict:
    found = timing.ceilings(device, dtype)
    return {"ok": True, "tflops": found.peak / 1e12, "copy_gbps": found.bandwidth / 1e9}


def launches(device: str, calls: int) -> dict:
    """Host time per call of a torch op and of ours, and per replay of a CUDA graph of each."""
    x, weight = torch.randn(16, 64, device=device), torch.randn(64, 64, device=device)
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
                found[f"{name}_graph_us"] = microseconds(captured(op), device, calls)
    return {"ok": True, **found}


def microseconds(function: Callable, device: str, calls: int) -> float:
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    if device == "cuda":
        torch.cuda.synchronize()
    return round(1e6 * (time.perf_counter() - start) / calls, 2)


def captured(function: Callable) -> Callable[[], None]:
    """The replay of a CUDA graph of one call."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay
