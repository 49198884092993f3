"""compute-sanitizer over all kernels on small shapes: no access out of bounds, no race in shared memory."""

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
KERNELS = (  # name, part, the checks of it that run: one dtype and configuration, the smallest shapes
    ("soft_topk", "topk", "^soft_topk (8x4|3x65) temperature 0.05$"),
    ("soft_topk large", "topk", "^soft_topk 1x5000 temperature 0.05$"),
    ("soft_topk of layers", "topk", "^soft_topk of layers .* temperature 0.05$"),
    ("prepared_linear", "masked", "^prepared_linear .*24x40 bf16 config 0$"),
    ("masked_linear", "masked", "^masked_linear .*24x40 bf16 config 0$"),
    ("smart_linear", "masked", "^smart_linear .*24x40 bf16 config 0$"),
    ("block_sparse_linear", "block", "^block_sparse_linear tall 32x32 fp32 config 0$"),
    ("block_sparse_linear gather", "block", "^block_sparse_linear tall 32x32 bf16 config 0$"),
    ("block_sparse_linear decode", "block", "^block_sparse_linear small 24x40 bf16 config 0$"),
    ("block_sparse_conv2d", "conv", "^block_sparse_conv2d 3x3 24x40 bf16 config 0$"),
    ("masked_conv2d", "conv", "^masked_conv2d 3x3 24x40 bf16 config 0$"),
    ("nm portable", "nm", "^nm portable 2:4 .* bf16 config 0$"),
    ("nm transposable", "nm", "^nm transposable 2:4 .* bf16 config 0$"),
    ("nm packing", "nm", "^nm (pack kernels|soft mask .* bf16)"),
    ("nm conv", "nm", "^nm conv 2:4 3x3 ragged bf16 config 0$"),
    ("mma", "nm", "^mma exact bf16 config 0$"),
    ("wgmma_ss", "nm", "^wgmma_ss exact bf16 config 0$"),
    ("wgmma_rs", "nm", "^wgmma_rs exact bf16 config 0$"),
    ("mma int8", "nm", "^mma exact int8 config 0$"),
)
LIMIT = 600  # seconds; the tool slows a kernel down many times


def cases(context: Context) -> Iterator[Check]:
    """Yield every tool and kernel."""
    for tool in TOOLS:
        for name, part, pattern in KERNELS:
            yield Check(f"{tool} {name}", partial(run, tool, part, pattern, context), "sanitize", tool)


def run(tool: str, part: str, pattern: str, context: Context) -> dict:
    """Run checks of a part under the tool, in a process of its own."""
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if context.device == "cpu" or not Path(sanitizer).exists():
        return {"ok": True, "skipped": "no GPU" if context.device == "cpu" else "compute-sanitizer not found"}
    with tempfile.TemporaryDirectory() as folder:
        check = [sys.executable, "-m", "bench", "gpu-check", f"--{part}", "--small", "--processes", "1"]
        check += ["--filter", pattern, "--out", f"{folder}/out.json"]
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", *check]
        env = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else one allocation hides all borders
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT)
    return {"ok": done.returncode == 0, "exit": done.returncode, "end": (done.stdout + done.stderr)[-400:]}
