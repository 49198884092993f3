"""Measure and check: ``python -m bench ops|layers|choice|codegen|gpu-check|report``"""

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from . import rows, run
from .case import DTYPES, Case, Shape, shapes
from .timing import ROUNDS


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 when something measured is wrong; argparse exits with 2 on bad usage."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    return args.command(args)


def parse(argv: list[str] | None) -> argparse.Namespace:
    from .gpu_check import PARTS

    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, help_ in (("ops", "time the kernels"), ("layers", "time the storage formats of a layer")):
        command = _command(commands, name, help_, measure)
        command.set_defaults(what=name)
        command.add_argument("--dtype", choices=sorted(DTYPES), help="default: fp32 on the CPU, bf16 on a GPU")
        command.add_argument("--seconds", type=_positive, default=4.0, help="at most this long per group on the CPU")
    choice_ = _command(commands, "choice", "what compress_ chooses on a CPU: is it never slower than dense?", choice)
    choice_.add_argument("--dtype", choices=sorted(DTYPES), default="fp32")
    choice_.add_argument("--seconds", type=_positive, default=1.0, help="more rounds for this long while they disagree")
    codegen_ = _command(commands, "codegen", "compile every kernel for GPUs that need not be here", codegen)
    codegen_.add_argument("--target", action="append", help="as in the table, sm_90 or gfx942; default: all")
    check = _command(commands, "gpu-check", "the first minutes on a GPU: right, then fast", gpu_check)
    check.add_argument("--minutes", type=_positive, default=20.0, help="start no case after this long")
    check.add_argument("--small", action="store_true", help="small shapes, as under compute-sanitizer")
    check.add_argument("--all", dest="parts", action="store_const", const=list(PARTS), help="every part, the default")
    for part in PARTS:
        check.add_argument(f"--{part}", dest="parts", action="append_const", const=part, help="this part only")
    _command(commands, "report", "docs/results.md and its plots, from the committed rows", report)
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that torch can use; --device cpu or --dry-run work without")
    return args


def _command(commands, name: str, help_: str, function) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help_, description=help_)
    command.set_defaults(command=function)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    command.add_argument("--dry-run", action="store_true", help="small, on the CPU, once; times and writes nothing")
    command.add_argument("--device", choices=("cpu", "cuda"), default=found)
    command.add_argument("--threads", type=int, choices=range(1, 1 + (os.cpu_count() or 1)), default=1, metavar="N")
    command.add_argument("--filter", default="", metavar="TEXT", help="regular expression; only cases that contain it")
    command.add_argument("--out", type=Path, metavar="FILE", help="default: beside the committed results")
    return command


def _positive(text: str) -> float:
    if float(text) <= 0:
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return float(text)


def cases(what: str, device: str, dtype: torch.dtype, shapes: Sequence[Shape], pattern: str = "") -> Iterator[Case]:
    """The cases of ``ops`` or ``layers`` whose name contains the pattern."""
    from . import block_sparse_linear, conv2d, layers, masked_linear, semi_structured_linear, soft_topk

    modules = {
        "ops": (soft_topk, masked_linear, block_sparse_linear, semi_structured_linear),
        "layers": (layers, conv2d),
    }[what]
    for module in modules:
        for case in module.cases(device, dtype, shapes):
            if re.search(pattern, str(case)):
                yield case


def measure(args: argparse.Namespace) -> int:
    device = "cpu" if args.dry_run else args.device
    dtype = DTYPES[args.dtype or ("bf16" if device == "cuda" else "fp32")]
    found = cases(args.what, device, dtype, shapes(device, args.dry_run), args.filter)
    if args.dry_run:
        count, refused = run.dry(found)
        print(f"{count} cases run once, nothing timed")
    else:
        refused, out = [], args.out or rows.default_path(device)
        measured = run.measure(found, device, args.seconds, refused)
        count = 0
        for line in run.table(kept(measured, out)):
            print(line, flush=True)
            count += 1
    return finish(refused, count)


def choice(args: argparse.Namespace) -> int:
    from . import choice

    found = choice.cases(DTYPES[args.dtype], args.dry_run, args.filter, args.seconds)
    if args.dry_run:
        count, refused = run.dry(found)
        print(f"{count} cases run once, nothing timed")
        return finish(refused, count)
    refused, measured = [], []
    rows_ = run.measure(found, "cpu", args.seconds, refused, least=ROUNDS)
    for row in kept(rows_, args.out or rows.default_path("cpu")):
        measured.append(row)
        print(choice.line(row), flush=True)
    for line in choice.verdict(measured):
        print(line)
    return finish(refused + choice.slower(measured), len(measured))


def kept(measured: Iterator[rows.Row], path: Path) -> Iterator[rows.Row]:
    """Pass rows on, each written as soon as it is known."""
    for row in measured:
        rows.append([row], path)
        yield row


def finish(wrong: list[str], count: int) -> int:
    """Print what was wrong; the exit code."""
    for line in wrong:
        print(f"WRONG {line}", file=sys.stderr)
    if not count:
        print("no case ran: does --filter match any?", file=sys.stderr)
    return int(bool(wrong) or not count)


def codegen(args: argparse.Namespace) -> int:
    from .codegen import table

    targets = args.target or list(table.LIMITS)
    if unknown := set(targets) - set(table.LIMITS):
        print(f"--target must be one of {', '.join(table.LIMITS)}, got {', '.join(unknown)}", file=sys.stderr)
        return 2
    names = [name for name in table.case_names() if re.search(args.filter, name)]
    if args.dry_run:
        names, targets = names[:1], targets[:1]
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a target compiles in a process of its own
        for compiled in pool.map(lambda target: table.census(target, names), targets):
            table.show(compiled)
            found += compiled
    if not args.dry_run:
        table.write(found, args.out or table.TABLE)
    wrong = [f"{r['target']} {r['case']} {r['kernel']}: {fault}" for r in found for fault in table.faults(r)]
    print(f"{len(found)} kernels compiled for {len(targets)} targets, {len(wrong)} faults")
    return finish(wrong, len(found))


def gpu_check(args: argparse.Namespace) -> int:
    from .gpu_check import runner

    return runner.main(args)


def report(args: argparse.Namespace) -> int:
    from .report import write

    return write(args.out, dry_run=args.dry_run)


if __name__ == "__main__":
    sys.exit(main())
