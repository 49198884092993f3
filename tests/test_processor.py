"""A processor without AVX-512: what it cannot do is left out, and the words about it are true.

The answers come from a process of its own, in which oneDNN, torch and with them llvmlite end at AVX2. ``make test``
also runs the tests of the formats and of ``compress_`` under the same limits.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from smart_kernels.formats import processor, simd
from tests.conftest import INTERPRETED

if INTERPRETED:
    pytest.skip("has no Triton kernel in it", allow_module_level=True)
ROOT = Path(__file__).parents[1]
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}
LLVM = importlib.util.find_spec("llvmlite") is not None
needs_llvm = pytest.mark.skipif(not LLVM, reason="needs llvmlite")
needs_avx2 = pytest.mark.skipif(processor.vector_level() not in ("AVX2", "AVX512"), reason="needs a CPU with AVX2")
ANSWERS = """
import json, sys
import torch
from torch import nn
from smart_kernels import compress_
from smart_kernels.formats import ELL, JIT, Packed, processor, simd
from smart_kernels.formats.vector_code import Spec

def refusal(build):
    try:
        build()
    except ValueError as error:
        return str(error)

half = torch.randn(64, 64).bfloat16()
half[:32] = 0
model, x = nn.Sequential(nn.Linear(64, 64, bias=False)).bfloat16(), torch.randn(4, 64).bfloat16()
model[0].weight.data.copy_(half)
found = {
    "level": processor.vector_level(),
    "packed": refusal(lambda: Packed.from_dense(half, (32, 32))),
    "ell": refusal(lambda: ELL.from_dense(half, (32, 32))),
    "machine": refusal(simd.machine),
}
with torch.no_grad():
    report = compress_(model, x, policy="size", seconds=0)
    found |= {"choice": report.rows[0].choice, "absent": report.absent, "dead": model(x)[:, :32].eq(0).all().item()}
    if found["machine"] is None:
        weight, x = half.float(), torch.randn(40, 64)
        stored, errors = JIT.from_dense(weight, (32, 32)), []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            errors.append((stored.linear(x) - x @ weight.T).abs().max().item())
        found |= {"lanes": simd.machine().lanes, "errors": errors, "code": simd.assembly(Spec(6, 2, 8, 32, 64))}
print(json.dumps(found))
"""
BENCH = """
import sys
from bench.__main__ import main
for what in ("ops", "layers"):
    if code := main([what, "--dtype", "bf16", "--dry-run", "--filter", "^(block_sparse|layer|conv2d)"]):
        sys.exit(code)
"""


def limited(code):
    """The last line that a process under the limits printed; it must end well."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | AVX2, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def avx2():
    return json.loads(limited(ANSWERS))


@pytest.mark.parametrize("dtype", processor.PACKED, ids=str)
def test_formats_are_told_what_onednn_does(dtype):
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.zeros(8, 8, dtype=dtype))
    except (RuntimeError, AttributeError):
        can = False
    else:
        can = True
    assert processor.onednn_takes(torch.zeros(8, 8, dtype=dtype)) is can
    assert (processor.onednn_lacks(torch.device("cpu"), dtype) is None) is can
    assert processor.onednn_lacks(torch.device("cuda"), dtype) is None


@needs_avx2
@pytest.mark.parametrize("name, who", [("packed", "packed"), ("ell", "engine onednn")])
def test_the_reason_names_what_is_missing(avx2, name, who):
    assert avx2["level"] == "AVX2"
    assert avx2[name].startswith(f"{who} cannot be had: oneDNN cannot pack bfloat16 on this processor")
    assert "avx512bw" in avx2[name] and "float32 or bfloat16" not in avx2[name]


@needs_avx2
def test_compress_goes_on_and_says_so_once(avx2):
    assert avx2["choice"] in ("compact", "bsr", "ell") and avx2["dead"]  # ell: by products that need no packing
    assert sum("oneDNN cannot pack bfloat16 on this processor" in line for line in avx2["absent"]) == 1


@needs_avx2
@needs_llvm
def test_vector_code_keeps_to_the_instruction_set(avx2):
    """On one thread and on two."""
    assert avx2["machine"] is None and avx2["lanes"] == 8
    assert max(avx2["errors"]) < 1e-4
    assert "ymm" in avx2["code"] and "zmm" not in avx2["code"]


@needs_avx2
@needs_llvm
def test_below_avx2_there_is_no_vector_code(monkeypatch):
    monkeypatch.setattr(processor, "vector_level", lambda: "DEFAULT")
    monkeypatch.setattr(simd, "features", simd.features.__wrapped__)
    with pytest.raises(ValueError, match=r"needs AVX-512, AVX2 with FMA or NEON, .* torch's vector level DEFAULT"):
        simd.machine.__wrapped__()


@needs_avx2
def test_bench_goes_on():
    assert "nothing timed" in limited(BENCH)


def test_only_what_is_above_the_level_is_taken_away(monkeypatch):
    has = {"sse2": True, "avx2": True, "fma": True, "avx512f": True, "avx512vl": False, "avx10.1": True, "neon": True}
    for level, left in {
        "AVX512": {"sse2", "avx2", "fma", "avx512f", "avx10.1", "neon"},
        "AVX2": {"sse2", "avx2", "fma", "neon"},
        "DEFAULT": {"sse2", "neon"},
        "SVE256": {"sse2", "avx2", "fma", "avx512f", "avx10.1", "neon"},
    }.items():
        monkeypatch.setattr(processor, "vector_level", lambda level=level: level)
        allowed = processor.allowed(has)
        assert allowed.keys() == has.keys() and {name for name, on in allowed.items() if on} == left
