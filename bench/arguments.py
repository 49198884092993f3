"""The command line of ``python -m bench``."""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path

import torch

from .accuracy.cells import CELLS, METHODS
from .case import DTYPES
from .codegen.table import LIMITS
from .gpu_check import PARTS
from .pareto.choices import MODELS as PARETO_MODELS
from .places import IS_CHECKOUT
from .tasks.cells import CELLS as TASK_CELLS
from .tasks.cells import METHODS as TASK_METHODS

COMMAND = "python -m bench" if IS_CHECKOUT else "smart-bench"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the arguments; ``command`` is the name of what to do. Exits with 2 on bad usage."""
    parser = argparse.ArgumentParser(COMMAND, description="Measure and check.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, help_ in (("ops", "time the kernels"), ("layers", "time the storage formats of a layer")):
        command = _command(commands, name, help_)
        command.add_argument("--dtype", choices=sorted(DTYPES), help="default: fp32 on the CPU, bf16 on a GPU")
        command.add_argument("--seconds", type=_positive, default=4.0, help="at most this long per group on the CPU")
    choice = _command(commands, "choice", "what compress_ chooses on a CPU: is it never slower than dense?")
    choice.add_argument("--dtype", choices=sorted(DTYPES), default="fp32")
    choice.add_argument("--seconds", type=_positive, default=1.0, help="more rounds for this long while they disagree")
    codegen = _command(commands, "codegen", "compile every kernel for GPUs that need not be here")
    part = "repeatable, none = all; what is not the whole census is written to --out only"
    codegen.add_argument("--target", action="append", choices=LIMITS, help=part)
    _command(commands, "host", "count what a call costs the host of a GPU, without one")
    check = _command(commands, "gpu-check", "the first minutes on a GPU: right, then fast")
    check.add_argument("--minutes", type=_positive, help="ends after this long, what is worth most first; default: 8")
    cores = "default: as many as there are cores; 1 in a dry run, and then everything runs in this one"
    check.add_argument("--processes", type=_whole(256), metavar="N", help=cores)
    check.add_argument("--small", action="store_true", help="small shapes, as under compute-sanitizer")
    check.add_argument("--all", dest="parts", action="store_const", const=list(PARTS), help="every part, the default")
    for part in PARTS:
        check.add_argument(f"--{part}", dest="parts", action="append_const", const=part, help="this part only")
    _add_accuracy(_command(commands, "accuracy", "every pruner with the same budget of batches, paired by seed"))
    _add_tasks(_command(commands, "tasks", "pruners where nothing is classified: pixels, boxes, larger pictures"))
    _add_pareto(_command(commands, "pareto", "plans for a speed-up beside one pattern for all layers"))
    _command(commands, "zoo", "half of the channels of timm's and torchvision's models pruned and removed")
    _command(commands, "report", "docs/results.md and its plots, from the committed rows")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that torch can use; --device cpu or --dry-run work without")
    return args


def _add_pareto(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--models", nargs="+", choices=PARETO_MODELS, metavar="MODEL", help=f"default: {', '.join(PARETO_MODELS)}")
    add("--seeds", type=_whole(100), default=5, metavar="N", help="from 0 on; default: 5")
    add("--minutes", type=_positive, help="start nothing after this long; default: until all is done")


def _add_accuracy(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--cells", nargs="+", choices=CELLS, metavar="CELL", help=f"default: the core; of {', '.join(CELLS)}")
    add("--pruners", nargs="+", choices=METHODS, metavar="NAME", help=f"default: all of {', '.join(METHODS)}")
    add("--seeds", type=_whole(100), default=5, metavar="N", help="from 0 on; default: 5")
    add("--cost", action="store_true", help="only count what each method costs in memory")
    add("--search", action="store_true", help="only find the settings of the methods, on a validation split")
    add("--variants", action="store_true", help="changes of SMART, one at a time, on cells and seeds of their own")
    time = command.add_mutually_exclusive_group()
    time.add_argument("--quick", action="store_true", help="one slice of 10 minutes")
    time.add_argument("--minutes", type=_positive, help="start nothing after this long; default: until all is done")


def _add_tasks(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--cells", nargs="+", choices=TASK_CELLS, metavar="CELL", help=f"default: all of {', '.join(TASK_CELLS)}")
    usual = "default: SMART, one-shot, gradual and the method that claims the task; any of "
    add("--pruners", nargs="+", choices=TASK_METHODS, metavar="NAME", help=usual + ", ".join(TASK_METHODS))
    add("--seeds", type=_whole(100), default=5, metavar="N", help="from 0 on; default: 5")
    add("--minutes", type=_positive, help="start nothing after this long; default: until all is done")


def _command(commands, name: str, help_: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help_, description=help_)
    command.set_defaults(command=name)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    command.add_argument("--dry-run", action="store_true", help="small, on the CPU, once; times and writes nothing")
    command.add_argument("--device", choices=("cpu", "cuda"), default=found)
    command.add_argument("--threads", type=_whole(os.cpu_count() or 1), default=1, metavar="N")
    only = "regular expression; only cases that contain it"
    command.add_argument("--filter", type=_expression, default="", metavar="TEXT", help=only)
    command.add_argument("--out", type=_place, metavar="FILE", help="default: beside the committed results")
    return command


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if number <= 0:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return number


def _whole(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {most}, got {text}")
        return int(text)

    return number


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"must be a regular expression, got {text!r}: {error}") from None
    return text


def _place(text: str) -> Path:
    """Return a path that can be written: what is measured must not be lost at its end."""
    path = Path(text)
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise argparse.ArgumentTypeError(f"must lie in a directory, got {text}, and {above} is none")
    return path
