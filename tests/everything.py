"""Run every test in every environment and write the summary: ``python -m tests.everything``, behind ``make test-all``.

Args: what to put on PYTHONPATH for the oldest triton; nothing to leave that out.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import torch
import triton

SUMMARY = Path(__file__).parents[1] / "docs" / "test-all.md"
INTERPRETED = ("tests/ops", "tests/test_masked_layers.py")
MACHINE_CODE = ("tests/test_machine_code.py", "tests/test_sparse_tensor_core.py")


def runs(oldest: str | None) -> list[tuple[str, dict[str, str], tuple[str, ...]]]:
    """(what, environment, paths) of each pytest process."""
    interpret = {"TRITON_INTERPRET": "1"}
    found = [("references, machine code", {}, ("tests", "bench")), ("interpreter", interpret, INTERPRETED)]
    if oldest:
        path = {"PYTHONPATH": oldest}
        found += [("interpreter, oldest triton", interpret | path, INTERPRETED)]
        found += [("machine code, oldest triton", path, MACHINE_CODE)]
    return found


def main(oldest: str | None) -> int:
    lines, failed = [], False
    for what, environment, paths in runs(oldest):
        command = ("-m", "pytest", "-q", "-n", "auto", "-m", "not gpu", "--benchmark-disable", *paths)
        settings = {"HYPOTHESIS_PROFILE": "all", **environment}
        done = subprocess.run([sys.executable, *command], env=os.environ | settings, stdout=subprocess.PIPE, text=True)
        print(done.stdout, flush=True)
        failed |= done.returncode != 0
        lines.append(f"| {what} | {' '.join(paths)} | {done.stdout.strip().splitlines()[-1].strip('= ')} |")
    SUMMARY.write_text("\n".join([*_head(), *lines, ""]))
    return int(failed)


def _head() -> list[str]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True).stdout.strip()
    return [
        "# All tests",
        "",
        f"`make test-all` on {platform.machine()}, {os.cpu_count()} cores, no GPU; Python {platform.python_version()},",
        f"torch {torch.__version__}, triton {triton.__version__}, commit {commit}.",
        "",
        "| what | tests | outcome |",
        "|---|---|---|",
    ]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:] or [None]))
