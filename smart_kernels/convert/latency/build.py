"""``latency_table``: every problem of a model once, in each pattern and density, from the cache or measured now."""

import copy
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from smart_kernels.convert.compress import DENSE, Report, Settings, compress_
from smart_kernels.convert.mask import masked_layers
from smart_kernels.convert.modules import device_of, evaluating, lent
from smart_kernels.patterns import NM, Block, Pattern, check_pattern

from .anchor import PATIENCE, Measured, counted
from .cache import Cache, conditions, default_folder
from .measure import Entry, measure_dense, measure_sparse
from .problems import Problem, patterns_of, problems_of
from .table import Curve, LatencyTable, LayerTimes

DENSITIES = (0.2, 0.05, 0.5)  # in the order in which they are measured: time is nearly a line in between
LOW = (16, 32, 64)  # sides of square blocks for a CPU
HIGH = (32, 64, 128)  # for a GPU, where the height of a block decides: docs/choosing.md

Job = tuple[Problem, Pattern, float]  # density


def default_patterns(device: torch.device, dtype: torch.dtype) -> tuple[Pattern, ...]:
    """Return the patterns that have a fast form there: square blocks, over all taps on a CPU, and 2:4 in 16 bits."""
    if device.type != "cuda":
        return tuple(Block(size, size, "all") for size in LOW)
    groups = (NM(2, 4),) if dtype in (torch.float16, torch.bfloat16) else ()
    return (*(Block(size, size) for size in HIGH), *groups)


def latency_table(
    model: nn.Module,
    example_input,
    patterns: Sequence[Pattern] | None = None,
    densities: Sequence[float] = DENSITIES,
    *,
    seconds: float = 180.0,
    cuda_graph: bool = False,
    cache: Path | str | None = "",
    progress: bool = True,
) -> LatencyTable:
    """Time each layer of a model as it would run pruned: in each pattern, with random zeros of a few densities.

    What is timed is what ``compress_`` tries, on the layer's own input, by its clock: each entry is the fastest sparse
    form beside the fastest dense one, in turns. Layers that pose the same problem (kind, sizes, geometry, input, dtype,
    device, threads) are timed once. Entries are kept on disk, by device and versions, for the next model and process.
    The whole model is timed in its best dense form, and once with all layers pruned, which says what a millisecond of a
    layer is in its model. It is left as it was.

    Args:
        model: on the device it will run on; plain, not masked.
        example_input: tensor, tuple of positional or dict of keyword arguments, shaped like the real input.
        patterns: to try; default: ``default_patterns``. Layers are those that ``mask_`` prunes by default.
        densities: fractions that are kept, those to measure first in front; what a pattern implies is taken for N:M.
        seconds: for all entries; those that do not fit are named in ``missing``. The whole model comes on top.
        cuda_graph: times of replays of a CUDA graph, for a model that will run in one.
        cache: the folder; default: ``smart_kernels/latency`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. None: no file.
        progress: show a bar.

    Raises:
        ValueError: no layer to prune, masked ones, a density outside (0, 1), or as ``compress_`` does.
    """
    settings = Settings(seconds=0.0, cuda_graph=cuda_graph)
    device = device_of(model)
    patterns = default_patterns(device, next(model.parameters()).dtype) if patterns is None else tuple(patterns)
    _check(model, patterns, densities)
    store = Cache(default_folder() if cache == "" else cache and Path(cache), conditions(device, settings))
    with lent(model), evaluating(model):
        prunable = patterns_of(model, patterns)
        if not prunable:
            raise ValueError(f"the model must have a layer to prune as {' or '.join(map(str, patterns))}, got none")
        plain = copy.deepcopy(model)
        report = compress_(model, example_input, backends=DENSE, seconds=PATIENCE, cuda_graph=cuda_graph)
        problems = problems_of(model, example_input, prunable)
        counts = _measure(list(_jobs(problems, densities)), settings, store, seconds, progress)
        measured = [_measured(problem, report, settings, densities, store) for problem in problems]
        factor = counted(plain, example_input, measured, report.after.ms, cuda_graph)
        missing = [_lacking(job) for job in _jobs(problems, densities) if store.get(_key(job)) is None]
        return LatencyTable(_layers(measured, factor), report.after, report.device, factor, tuple(missing), *counts)


def _check(model: nn.Module, patterns: Sequence[Pattern], densities: Sequence[float]) -> None:
    if masked_layers(model):
        raise ValueError("latency_table needs plain layers, got masked ones: call it before the pruner is made")
    for pattern in patterns:
        check_pattern(pattern)
    if not patterns or not densities or not all(0 < density < 1 for density in densities):
        raise ValueError(f"latency_table needs patterns, and densities in (0, 1), got {patterns} and {densities}")


def _jobs(problems: list[Problem], densities: Sequence[float]) -> Iterator[Job]:
    """Yield what to measure: all of the first density in front, and in each the largest problems."""
    for i in range(len(densities)):
        for problem in problems:
            for pattern in problem.patterns:
                if i == 0 or pattern.sparsity is None:
                    yield problem, pattern, _density(pattern, densities[i])


def _density(pattern: Pattern, density: float) -> float:
    return density if pattern.sparsity is None else 1 - pattern.sparsity


def _key(job: Job) -> str:
    problem, pattern, density = job
    return f"{problem.key} {pattern} {density:g}"


def _measure(jobs: list[Job], settings: Settings, store: Cache, seconds: float, progress: bool) -> tuple[int, int]:
    """Measure what the cache lacks, as far as the time goes.

    Returns:
        how many entries were measured, and how many the cache had.
    """
    wanted = {_key(job): job for job in jobs}
    new = {key: job for key, job in wanted.items() if store.get(key) is None}
    deadline = time.monotonic() + seconds
    measured = 0
    often = 0.2 if sys.stderr.isatty() else 10.0  # a log file wants few lines
    try:
        for key, job in tqdm(new.items(), "latency table", unit="entry", disable=not progress, mininterval=often):
            if time.monotonic() >= deadline:
                break
            store.put(key, measure_sparse(*job, settings))
            measured += 1
    finally:
        store.write()  # after Ctrl-C, too
    return measured, len(wanted) - len(new)


def _measured(
    problem: Problem, report: Report, settings: Settings, densities: Sequence[float], store: Cache
) -> Measured:
    """Return a problem with its curves, and ms and form of a dense call: as ``compress_`` has just timed it, or timed
    now where there was no choice.

    Never from the cache: what is added up beside the whole model has to be of the same moment.
    """
    names = {name for users in problem.users for name in users}
    row = next((row for row in report.rows if names & {row.name, *row.shared} and row.ms is not None), None)
    ms, label = measure_dense(problem, settings) if row is None else (row.ms, row.choice)
    curves = {str(p): curve for p in problem.patterns if (curve := _curve(problem, p, densities, store))}
    return Measured(problem, ms, label, curves)


def _layers(measured: list[Measured], factor: float) -> dict[str, LayerTimes]:
    """Return the layers by name; each millisecond of theirs counts ``factor``."""
    layers: dict[str, LayerTimes] = {}
    for each in measured:
        problem, macs = each.problem, each.problem.macs()
        for names, calls in problem.users.items():
            size = (problem.shape, problem.layer.weight.element_size(), calls, calls * macs)
            layers[names[0]] = LayerTimes(names, *size, factor * calls * each.ms, each.label, each.curves)
    return layers


def _lacking(job: Job) -> str:
    problem, pattern, density = job
    return f"no time was left for {next(iter(problem.users))[0]} as {pattern} at a density of {density:g}"


def _curve(problem: Problem, pattern: Pattern, densities: Sequence[float], store: Cache) -> Curve | None:
    """Return the entries of a problem in a pattern by density; None where no sparse form fits, or nothing is known."""
    keys = {_key((problem, pattern, _density(pattern, density))) for density in densities}
    known = [entry for key in keys if (entry := store.get(key)) and entry.label]
    points: dict[float, Entry] = {entry.density: entry for entry in known}
    if not points:
        return None
    found = [points[density] for density in sorted(points)]
    return Curve(pattern, tuple(e.density for e in found), tuple(e.ratio for e in found), tuple(e.label for e in found))
