"""Timings beside cuBLAS and the peers, in CUDA graphs: the cases of ``python -m bench ops``, per shape and block.

Before them comes the compiling that they need, which many processes can do.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch

from smart_kernels.kernels.common import compiling

from .. import block_sparse_linear, masked_linear, rows, run, soft_topk
from ..case import DTYPES, Case, Shape, shapes
from ..timing import Timing
from .check import INTERPRETED, Check, Context

SECONDS = 2.0
THREADS = 2  # that compile in each of many processes
ORDER = ("llama-up/prefill", "vit-l-mlp/train", "llama-up/decode", "llama-up/512")  # the others after them
OURS = ("block_sparse_linear", "masked_linear", "smart_linear", "bsr", "soft_topk")

Cases = Callable[[], Iterator[Case]]


def cases(context: Context) -> Iterator[Check]:
    """Yield what compiles and what times every operation, shape and block, the most telling shapes first."""
    for name, make in products(context):
        family = name.partition(" ")[0]
        yield Check(f"speed {name}", partial(time, make, context), "speed", family)
        yield Check(f"compile {name}", partial(compile_ahead, make, context), "compile", family)
    everything = shapes(context.device, context.small)
    make = partial(soft_topk.cases, context.device, dtype(context), everything)
    yield Check("speed soft_topk", partial(time, make, context), "speed", "soft_topk")


def products(context: Context) -> Iterator[tuple[str, Cases]]:
    """Yield the name of every operation, shape and block, and what makes its cases."""
    where = context.device, dtype(context)
    for shape in sorted(shapes(context.device, context.small), key=_worth):
        for block in block_sparse_linear.blocks_for(context.device):
            make = partial(block_sparse_linear.cases, *where, (shape,), (block,))
            yield f"block_sparse_linear {shape.name} {block[0]}x{block[1]}", make
        for tile in masked_linear.TILES:
            make = partial(masked_linear.cases, *where, (shape,), (tile,))
            yield f"masked_linear {shape.name} {tile[0]}x{tile[1]}", make


def _worth(shape: Shape) -> int:
    return ORDER.index(shape.name) if shape.name in ORDER else len(ORDER)


def dtype(context: Context) -> torch.dtype:
    """Return the dtype that is timed: bf16 on a GPU."""
    return DTYPES["fp32" if context.device == "cpu" else "bf16"]


def compile_ahead(make: Cases, context: Context) -> dict:
    """Let our cases of one sparsity compile what their tuning will try: it lies in Triton's cache then."""
    if context.dry or INTERPRETED:
        return {"ok": True, "skipped": "nothing to compile"}
    ran: set[tuple[str, str, Shape]] = set()
    with compiling(THREADS):
        for case in make():
            key = (case.provider, case.problem.pass_, case.problem.shape)
            if case.provider in OURS and key not in ran:
                ran.add(key)
                _try(case)
    return {"ok": True, "compiled": len(ran)}


def _try(case: Case) -> None:
    try:
        case.run()
    except Exception as error:  # a configuration that this device cannot hold is none that it would choose
        if "CUDA error" in str(error):
            raise
        print(f"    {case}: {type(error).__name__}: {str(error)[:100]}", flush=True)


def time(make: Cases, context: Context) -> dict:
    """Time cases."""
    return timed(make(), context)


def time_module(module, shapes: Iterable[Shape], context: Context) -> dict:
    """Time the cases of a module."""
    return timed(module.cases(context.device, dtype(context), shapes), context)


def timed(found: Iterable[Case], context: Context) -> dict:
    """Time the cases that are right, out of CUDA graphs. Rows are appended to the results that the report reads."""
    if INTERPRETED:
        return {"ok": True, "skipped": "the interpreter is no fast machine"}
    if context.dry:
        count, wrong = run.dry(found)
        return {"ok": not wrong, "cases": count, "wrong": wrong}
    wrong: list[str] = []
    found = (case for case in found if case.problem.pass_ != "bwd")
    measured = run.measure(found, context.device, SECONDS, wrong, timers=("graph",), known=known(context))
    return {"ok": not wrong, "cases": kept(measured, context), "wrong": wrong}


def known(context: Context) -> dict:
    """Return the limits that were measured before, by dtype."""
    return {DTYPES[name]: limits for name, limits in context.limits.items()}


def rows_of(groups: Iterable[list[tuple[Case, Timing]]], dtype: torch.dtype, context: Context) -> dict[str, float]:
    """Keep the rows of groups of one problem, each group from one timer; return the milliseconds by provider."""
    limits = known(context).get(dtype) or run.limits(context.device, dtype)
    env = rows.environment(context.device)
    measured = [row for pairs in groups if pairs for row in run.rows(*zip(*pairs, strict=True), limits, env)]
    kept(measured, context)
    return {f"{r.provider} {r.timer}_ms": r.p50_ms for r in measured}


def kept(measured: Iterable[rows.Row], context: Context) -> int:
    """Append rows to the results, each as soon as it is known, and print them; return how many there are."""
    found = []
    for row in measured:
        rows.append([row], rows.default_path(context.device))
        found.append(row)
    for line in run.table(found):
        print("   ", line, flush=True)
    return len(found)
