"""Run every test in every environment and write the summary: ``python -m tests.everything``, behind ``make test-all``.

Hours on a small machine, hence in parts: the summary is written after each, and ``--part`` runs one again. A part that
is not run keeps its line, which names the commit that it was run on.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

SUMMARY = Path(__file__).parents[1] / "docs" / "test-all.md"
PTX = "tests/test_sparse_tensor_core.py"
INTERPRETED = ("tests/ops", "tests/test_masked_layers.py")
COMPILED = ("tests/ops", *(f"tests/test_{name}.py" for name in ("opcheck", "export", "attention", "host", "tuning")))
COMPILED += ("tests/test_semi_structured_compiled.py", "tests/test_cusparselt.py", "tests/train/test_pruner_masks.py")
VECTORISED = tuple(f"tests/test_{name}.py" for name in ("formats", "jit", "compress", "save", "warmup"))
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
PYTEST = ("pytest", "-q", "-n", "auto", "--dist", "worksteal", "-m", "not gpu", "--benchmark-disable")
CENSUS = ("bench", "codegen")
HEAD = ("what", "triton", "outcome", "commit")


@dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
        what: its name.
        command: module and arguments.
        environment: variables besides.
        oldest: on the oldest triton, not on the installed one.
        old_torch: on the oldest torch, which is an environment of its own.
    """

    what: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    oldest: bool = False
    old_torch: bool = False

    @property
    def name(self) -> str:
        return f"{self.what}-oldest" if self.oldest or self.old_torch else self.what


PARTS = (
    Part("references", (*PYTEST, "tests", "bench", f"--ignore={PTX}")),
    Part("avx2", (*PYTEST, *VECTORISED), AVX2),
    Part("ptx", (*PYTEST, PTX)),
    Part("ptx", (*PYTEST, PTX), oldest=True),
    Part("interpreter", (*PYTEST, *INTERPRETED), {"TRITON_INTERPRET": "1"}),
    Part("interpreter", (*PYTEST, *INTERPRETED), {"TRITON_INTERPRET": "1"}, oldest=True),
    Part("torch", (*PYTEST, *COMPILED), old_torch=True),
    Part("machine-code", (*CENSUS, "--out", os.devnull)),
    Part("machine-code", CENSUS, oldest=True),  # writes the committed table
)


def run(part: Part, overlay: str, old_python: str) -> tuple[bool, str]:
    """Return whether the part passed, and its line of the summary."""
    commit = _commit()
    python = old_python if part.old_torch else sys.executable
    path = {"PYTHONPATH": overlay} if part.oldest else {}
    settings = os.environ | {"HYPOTHESIS_PROFILE": "all"} | part.environment | path
    begin = time.perf_counter()
    done = subprocess.run([python, "-m", *part.command], env=settings, stdout=subprocess.PIPE, text=True)
    print(done.stdout, f"{part.name}: {time.perf_counter() - begin:.0f} s", sep="\n", flush=True)
    outcome = done.stdout.strip().splitlines()[-1].strip("= ")
    shown = "triton.__version__" + ", 'torch', torch.__version__" * part.old_torch
    versions = _output(python, settings, "-c", f"import torch, triton; print({shown})")
    cells = part.name, versions, outcome, commit
    return done.returncode == 0, _row(cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--oldest", metavar="PATH", help="what to put on PYTHONPATH for the oldest triton")
    parser.add_argument("--oldest-torch", metavar="PYTHON", help="the Python of an environment with the oldest torch")
    parser.add_argument("--part", action="append", choices=[part.name for part in PARTS], help="repeatable, none = all")
    options = parser.parse_args()
    asked = [part for part in PARTS if part.name in (options.part or [p.name for p in PARTS])]
    chosen = [p for p in asked if options.oldest or not p.oldest]
    chosen = [p for p in chosen if options.oldest_torch or not p.old_torch]
    lines, failed = _earlier(), False
    for part in chosen:
        passed, lines[part.name] = run(part, options.oldest, options.oldest_torch)
        failed |= not passed
        _write([lines[p.name] for p in PARTS if p.name in lines])
    return int(failed)


def _earlier() -> dict[str, str]:
    lines = SUMMARY.read_text().splitlines() if SUMMARY.exists() else []
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    return {part.name: rows[part.name] for part in PARTS if part.name in rows}


def _write(rows: list[str]) -> None:
    machine = f"{platform.machine()}, {os.cpu_count()} cores, no GPU; Python {platform.python_version()}"
    text = f"`make test-all` (300 Hypothesis examples a law) on {machine}, torch {torch.__version__}."
    SUMMARY.write_text("\n".join(["# All tests", "", text, "", _row(HEAD), "|---|---|---|---|", *rows, ""]))


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _commit() -> str:
    """The commit, with a mark when the working tree differs from it."""
    head = subprocess.run(("git", "rev-parse", "--short", "HEAD"), stdout=subprocess.PIPE, text=True).stdout.strip()
    changed = subprocess.run(("git", "diff", "--quiet", "HEAD", "--", ".", f":(exclude){SUMMARY}")).returncode
    return f"{head} and changes" if changed else head


def _output(python: str, environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run([python, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
