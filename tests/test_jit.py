"""The compiled products: every vector width, every number of rows and threads, and what the processor is given."""

import gc
import importlib.util
import re
from functools import lru_cache
from weakref import WeakValueDictionary

import pytest
import torch
from torch import nn

from smart_kernels import compress_
from smart_kernels.formats import BSR, JIT, Conv, simd, vector_code
from tests.conftest import INTERPRETED
from tests.util import assert_close

if INTERPRETED:
    pytest.skip("has no Triton kernel in it", allow_module_level=True)
LLVM = importlib.util.find_spec("llvmlite") is not None
needs_llvm = pytest.mark.skipif(not LLVM, reason="needs llvmlite")
MACHINES = [simd.Machine(16, 32), simd.Machine(8, 16), simd.Machine(4, 32)]


def uneven(N, K, tile, taps=1):
    """(N, taps * K); block row i keeps about i tiles of 8, the first none."""
    rows, cols = -(-N // tile[0]), -(-K // tile[1])
    live = torch.rand(rows, taps, cols) < torch.arange(rows)[:, None, None] / max(8, rows)
    mask = live.repeat_interleave(tile[0], 0).repeat_interleave(tile[1], 2)[:N, :, :K]
    return (torch.randn(N, taps, K) * mask).flatten(1)


@pytest.fixture
def threads():
    """Sets the number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_llvm
@pytest.mark.parametrize("machine", MACHINES, ids=["avx512", "avx2", "neon"])
@pytest.mark.parametrize("tile", [(64, 32), (16, 8), (8, 3), (24, 5)], ids=str)
def test_every_width(machine, tile, monkeypatch):
    """Other processors' vectors are only split or narrow here: the layout of the panels is theirs."""
    monkeypatch.setattr(simd, "machine", lambda: machine)
    weight, bias = uneven(200, 50, tile), torch.randn(200)
    stored = JIT.from_dense(weight, tile)
    for M in (1, 13):
        x = torch.randn(M, 50)
        with torch.no_grad():
            assert_close(f"M={M}", stored.linear(x, bias), x.double() @ weight.double().T + bias, x.dtype)


@needs_llvm
def test_every_number_of_rows():
    weight = uneven(64, 64, (32, 32))
    stored = JIT.from_dense(weight, (32, 32))
    with torch.no_grad():
        for M in (*range(1, 14), 25, 1300):
            x = torch.randn(M, 64)
            assert_close(f"M={M}", stored.linear(x), x.double() @ weight.double().T, x.dtype)


@needs_llvm
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_threads_change_nothing(parts, threads):
    stored, x = JIT.from_dense(uneven(160, 64, (32, 16)), (32, 16)), torch.randn(40, 64)
    image, conv = torch.randn(2, 16, 9, 9), Conv((3, 3), (2, 2), (1, 1))
    taps = JIT.from_dense(uneven(64, 16, (16, 16), 9), (16, 16), taps=9)
    with torch.no_grad():
        threads(1)
        y, z = stored.linear(x), taps.conv2d(image, None, conv)
        threads(parts)
        assert torch.equal(stored.linear(x), y) and torch.equal(taps.conv2d(image, None, conv), z)


@needs_llvm
def test_strided_input_and_sizes_forgotten(monkeypatch):
    monkeypatch.setattr("smart_kernels.formats.jit.SIZES", 2)
    weight = uneven(32, 16, (16, 8))
    stored = JIT.from_dense(weight, (16, 8))
    with torch.no_grad():
        for M in (2, 3, 4, 2):
            x = torch.randn(16, M).T
            assert_close(f"M={M}", stored.linear(x), x.double() @ weight.double().T, x.dtype)
        assert stored.linear(torch.randn(0, 16)).shape == (0, 32)


@needs_llvm
def test_code_is_freed_with_the_last_layer_that_runs_it(monkeypatch):
    monkeypatch.setattr(simd, "_live", WeakValueDictionary())
    monkeypatch.setattr(simd, "_compiled", lru_cache(1)(simd._compiled.__wrapped__))  # what may stay without a layer
    weights = [uneven(32, K, (16, 8)) for K in (16, 24, 32, 16)]
    layers = [JIT.from_dense(weight, (16, 8)) for weight in weights]

    def check(layer, weight):
        x = torch.randn(2, weight.shape[1])
        with torch.no_grad():
            assert_close("y", layer.linear(x), x.double() @ weight.double().T, x.dtype)

    list(map(check, layers, weights))
    assert len(simd._live) == 3  # the first and the last share theirs
    del layers[:3]
    gc.collect()
    assert len(simd._live) == 1
    check(layers[0], weights[3])
    check(JIT.from_dense(weights[1], (16, 8)), weights[1])


@needs_llvm
def test_machine_code():
    """Inside the loop: one multiply-add per accumulator and column, none of them spilled."""
    machine = simd.machine()
    rows = min(simd.MOST_ROWS, (machine.registers - 3) // 2)
    code = simd.assembly(vector_code.Spec(rows, 2, machine.lanes, 32, 768))
    register = {16: "zmm", 8: "ymm", 4: r"v\d+\.4s"}[machine.lanes]
    products = [line for line in code.splitlines() if re.search(r"vfn?madd|fmla", line)]
    assert len(products) == 2 * rows * vector_code.UNROLL and all(re.search(register, line) for line in products)
    assert not re.search(r"Spill|Reload", code)
    if machine.lanes == 8:  # the target has no more than the machine: neither the registers of AVX-512 nor its masks
        assert not re.search(r"zmm|%[xy]mm(1[6-9]|2\d|3[01])|%k[0-7]", code)


@needs_llvm
def test_says_what_it_cannot_hold():
    with pytest.raises(ValueError, match="multiple of 8 rows"):
        JIT.from_dense(torch.ones(12, 8), (12, 8))
    with pytest.raises(ValueError, match="float32"):
        JIT.from_dense(torch.ones(16, 8).double(), (16, 8))


@pytest.fixture
def without_llvm(monkeypatch):
    simd.machine.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    yield
    simd.machine.cache_clear()


def test_without_llvmlite_one_line_says_so(without_llvm):
    weight = uneven(64, 64, (32, 32))
    with pytest.raises(ValueError, match=r"pip install smart-kernels\[cpu-jit\]"):
        JIT.from_bsr(BSR.from_dense(weight, (32, 32)))
    model = nn.Sequential(nn.Linear(64, 64))
    model[0].weight.data.copy_(weight)
    report = compress_(model, torch.randn(2, 64), seconds=0)
    assert str(report).count("pip install smart-kernels[cpu-jit]") == 1
    assert type(report).from_dict(report.to_dict()) == report
