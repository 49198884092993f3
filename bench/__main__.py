"""Measure and check: ``python -m bench ops|layers|choice|codegen|host|gpu-check|zoo|accuracy|tasks|pareto|report``"""

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from . import rows, run
from .arguments import parse
from .case import DTYPES, Case, Shape, shapes
from .timing import ROUNDS


def main(argv: list[str] | None = None) -> int:
    """Run a command; return 0, 1 when something measured is wrong, 2 on bad usage, such as a filter without a case."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    return COMMANDS[args.command](args)


def cases(what: str, device: str, dtype: torch.dtype, shapes: Sequence[Shape], pattern: str = "") -> Iterator[Case]:
    """Yield the cases of ``ops`` or ``layers`` whose name contains the pattern."""
    from . import block_sparse_linear, conv2d, layers, masked_linear, semi_structured_linear, soft_topk

    modules = {
        "ops": (soft_topk, masked_linear, block_sparse_linear, semi_structured_linear),
        "layers": (layers, conv2d),
    }[what]
    for module in modules:
        for case in module.cases(device, dtype, shapes):
            if re.search(pattern, str(case)):
                yield case


def time_cases(args: argparse.Namespace) -> int:
    """Time the cases of ``ops`` or ``layers``."""
    device = "cpu" if args.dry_run else args.device
    dtype = DTYPES[args.dtype or ("bf16" if device == "cuda" else "fp32")]
    found = cases(args.command, device, dtype, shapes(device, args.dry_run), args.filter)
    if args.dry_run:
        return rehearse(found, args.filter)
    refused: list[str] = []
    measured: list[rows.Row] = []
    timed = saved(run.measure(found, device, args.seconds, refused), args.out or rows.default_path(device))
    for line in run.table(measured.append(row) or row for row in timed):
        print(line, flush=True)
    return finish(refused, len(measured), args.filter)


def choice(args: argparse.Namespace) -> int:
    """Time what ``compress_`` chooses beside the best dense; a choice that is slower is wrong."""
    from . import choice

    found = choice.cases(DTYPES[args.dtype], args.dry_run, args.filter, args.seconds)
    if args.dry_run:
        return rehearse(found, args.filter)
    refused: list[str] = []
    measured: list[rows.Row] = []
    timed = run.measure(found, "cpu", args.seconds, refused, least=ROUNDS)
    for row in saved(timed, args.out or rows.default_path("cpu")):
        measured.append(row)
        print(choice.line(row), flush=True)
    for line in choice.verdict(measured):
        print(line)
    return finish(refused + choice.slower(measured), len(measured), args.filter)


def rehearse(found: Iterator[Case], pattern: str) -> int:
    """Run every case once and time nothing."""
    count, refused = run.dry(found)
    print(f"{count} cases run once, nothing timed")
    return finish(refused, count, pattern)


def saved(measured: Iterator[rows.Row], path: Path) -> Iterator[rows.Row]:
    """Pass rows on, each written to a file as soon as it is known."""
    for row in measured:
        rows.append([row], path)
        yield row


def finish(wrong: list[str], count: int, pattern: str) -> int:
    """Print what was wrong; return the exit code."""
    for line in wrong:
        print(f"WRONG {line}", file=sys.stderr)
    if wrong:
        return 1
    if not count:
        print(f"--filter must match a case, got {pattern!r}, which none contains", file=sys.stderr)
    return 0 if count else 2


def codegen(args: argparse.Namespace) -> int:
    """Compile every kernel for every target and check the machine code."""
    from .codegen import table

    targets = args.target or list(table.LIMITS)
    names = [name for name in table.case_names() if re.search(args.filter, name)]
    if args.dry_run:
        names = names[:1]
        targets = targets[:1]
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a target compiles in a process of its own
        for compiled in pool.map(lambda target: table.census(target, names), targets):
            table.show(compiled)
            found += compiled
    whole = not (args.filter or args.target)  # the committed table holds every case
    if found and not args.dry_run and (args.out or whole):
        table.write(found, args.out or table.TABLE)
    wrong = [f"{r['target']} {r['case']} {r['kernel']}: {fault}" for r in found for fault in table.faults(r)]
    print(f"{len(found)} kernels compiled for {len(targets)} targets, {len(wrong)} faults")
    return finish(wrong, len(found), args.filter)


def host(args: argparse.Namespace) -> int:
    """Count what a call costs the host."""
    from . import host

    return finish([], host.main(args), args.filter)


def gpu_check(args: argparse.Namespace) -> int:
    """Check the kernels on a GPU, then time them."""
    from .gpu_check import runner

    return runner.main(args)


def report(args: argparse.Namespace) -> int:
    """Write the pages of results from the committed rows."""
    from .report import write

    return write(args.out, dry_run=args.dry_run)


def zoo(args: argparse.Namespace) -> int:
    """Prune and slim other people's models."""
    from . import zoo

    return zoo.main(args)


def accuracy(args: argparse.Namespace) -> int:
    """Compare the pruners."""
    from . import accuracy

    return accuracy.main(args)


def tasks(args: argparse.Namespace) -> int:
    """Compare pruners on tasks other than classes."""
    from . import tasks

    return tasks.main(args)


def pareto(args: argparse.Namespace) -> int:
    """Prune models to targets and to one pattern, and measure both."""
    from . import pareto

    return pareto.main(args)


COMMANDS = {"ops": time_cases, "layers": time_cases, "choice": choice, "codegen": codegen, "gpu-check": gpu_check}


COMMANDS |= {"pareto": pareto, "host": host, "zoo": zoo, "accuracy": accuracy, "tasks": tasks, "report": report}

if __name__ == "__main__":
    sys.exit(main())
