"""Timings beside cuBLAS and the peers: the cases of ``python -m bench ops``, one check per operation and shape."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from types import ModuleType

import torch

from .. import block_sparse_linear, masked_linear, rows, run, soft_topk
from ..case import DTYPES, Case, Shape, shapes
from .check import INTERPRETED, Check, Context

SECONDS = 2.0


def cases(context: Context) -> Iterator[Check]:
    """Yield one check per operation and shape."""
    everything = shapes(context.device, context.small)
    yield Check("speed soft_topk", partial(time_module, soft_topk, everything, context))
    for module in (block_sparse_linear, masked_linear):
        for shape in everything:
            name = f"speed {module.__name__.rpartition('.')[2]} {shape.name}"
            yield Check(name, partial(time_module, module, (shape,), context))


def time_module(module: ModuleType, shapes: Sequence[Shape], context: Context) -> dict:
    """Time the cases of a module."""
    return timed(module.cases(context.device, dtype(context), shapes), context)


def dtype(context: Context) -> torch.dtype:
    """Return the dtype that is timed: bf16 on a GPU."""
    return DTYPES["fp32" if context.device == "cpu" else "bf16"]


def timed(found: Iterable[Case], context: Context) -> dict:
    """Time the cases that are right. Rows are also appended to the results that the report reads."""
    if INTERPRETED:
        return {"ok": True, "skipped": "the interpreter is no fast machine"}
    if context.dry:
        count, wrong = run.dry(found)
        return {"ok": not wrong, "cases": count, "wrong": wrong}
    wrong: list[str] = []
    measured = []
    for row in run.measure(found, context.device, SECONDS, wrong):
        rows.append([row], rows.default_path(context.device))
        measured.append(row)
    for line in run.table(measured):
        print("   ", line, flush=True)
    return {"ok": not wrong, "cases": len(measured), "wrong": wrong}
