"""compute-sanitizer over the correctness parts on small shapes: no access out of bounds, no race in shared memory."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .check import Check, Context

TOOLS = ("memcheck", "racecheck")
PARTS = ("topk", "masked", "block", "conv", "nm")
LIMIT = 600  # seconds; the tool slows a kernel down many times


def cases(context: Context) -> Iterator[Check]:
    """Yield every tool and part."""
    for tool in TOOLS:
        for part in PARTS:
            yield Check(f"{tool} {part}", partial(run, tool, part, context))


def run(tool: str, part: str, context: Context) -> dict:
    """Run a part of the check under the tool, in a process of its own."""
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if context.device == "cpu" or not Path(sanitizer).exists():
        return {"ok": True, "skipped": "no GPU" if context.device == "cpu" else "compute-sanitizer not found"}
    with tempfile.TemporaryDirectory() as folder:
        check = [sys.executable, "-m", "bench", "gpu-check", f"--{part}", "--small", "--out", f"{folder}/out.json"]
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", *check]
        env = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else one allocation hides all borders
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT)
    return {"ok": done.returncode == 0, "exit": done.returncode, "end": (done.stdout + done.stderr)[-400:]}
