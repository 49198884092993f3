"""The count of what a call costs the host: exact, of the calls that a GPU gets, and written down."""

import csv
import gc

import pytest
import torch
import triton
from triton.runtime.jit import JITFunction

from bench import host
from bench.__main__ import main
from bench.claimed import claimed
from bench.host_cases import cases
from smart_kernels import masked_linear, ops, smart_weight

COSTS = {  # the call and its pass, of bench/host_cases.py: the most Python calls, and Triton's launches
    ("block_sparse_linear", "fwd"): (120, 1),
    ("block_sparse_linear", "fwd+bwd"): (300, 3),
    ("block_sparse_linear, 1 row", "fwd"): (120, 1),
    ("block_sparse_linear, 1 row", "fwd+bwd"): (300, 3),
    ("block_sparse_linear, 256 rows", "fwd"): (120, 1),
    ("block_sparse_linear, 256 rows", "fwd+bwd"): (300, 3),
    ("block_sparse_linear, 256 rows, tile 64x64", "fwd"): (120, 1),
    ("block_sparse_linear, 256 rows, tile 64x64", "fwd+bwd"): (300, 3),
    ("block_sparse_linear, fp8", "fwd"): (120, 1),
    ("block_sparse_conv1d", "fwd"): (120, 1),
    ("block_sparse_conv2d", "fwd"): (120, 1),
    ("block_sparse_conv2d, index", "fwd+bwd"): (300, 3),
    ("block_sparse_conv_transpose2d", "fwd"): (120, 1),
    ("block_sparse_conv_transpose2d, index", "fwd"): (120, 1),
    ("block_sparse_conv_transpose2d, index", "fwd+bwd"): (300, 3),
    ("masked_linear", "fwd"): (120, 3),
    ("masked_conv2d", "fwd"): (120, 3),
    ("masked_conv2d", "fwd+bwd"): (380, 9),
    ("smart_weight", "fwd"): (120, 1),
    ("semi_structured_linear", "fwd"): (120, 1),
    ("semi_structured_linear", "fwd+bwd"): (300, 2),
    ("semi_structured_conv2d", "fwd"): (120, 1),
    ("semi_structured_prune", "fwd"): (120, 1),
    ("quantized_semi_structured_linear", "fwd"): (120, 1),
    ("2:4 on sparse tensor cores, mma", "fwd"): (120, 1),
    ("2:4 on sparse tensor cores, wgmma_rs", "fwd"): (120, 1),
    ("2:4 on sparse tensor cores, wgmma_ss", "fwd"): (120, 1),
    ("SparseLinear, Block", "fwd"): (120, 1),
    ("SparseLinear, Block", "fwd+bwd"): (300, 3),
    ("SparseLinear, NM", "fwd"): (120, 1),
    ("SparseLinear, NM", "fwd+bwd"): (300, 2),
    ("SparseConv2d, Block", "fwd"): (120, 1),
    ("SparseConv2d, Block", "fwd+bwd"): (300, 3),
    ("masked_linear", "fwd+bwd"): (300, 7),
    ("MaskedLinear in a step, Block", "fwd+bwd"): (300, 3),
    ("MaskedLinear in a step, tile 128x128", "fwd+bwd"): (300, 3),
    ("MaskedLinear in a step, NM", "fwd+bwd"): (300, 2),
    ("MaskedConv2d, soft", "fwd+bwd"): (450, 9),
    ("soft_topk, large", "fwd+bwd"): (220, 7),
}
PRUNERS = {  # of a model of 24 layers: the most calls per layer, Triton's launches, torch's kernels
    "SmartPruner.step, 24 layers, Block": (40, 3, 4),
    "SmartPruner.step, 24 layers, many tiles": (40, 8, 4),
    "SmartPruner.step, 24 layers, Channel": (40, 8, 4),
    "SmartPruner.step, 24 layers, NM": (40, 0, 2),
    "SmartPruner.step, 24 layers, finetuning": (40, 1, 0),
    "forward and backward in the search, 24 layers, Block": (300, 3 * 24 + 1, 1),
    "forward and backward in the search, 24 layers, many tiles": (300, 3 * 24 + 1, 1),
    "forward and backward in the search, 24 layers, tiles larger than a block": (300, 3 * 24 + 1, 24 + 1),
    "forward and backward in the search, 24 layers, NM": (300, 2 * 24, 4 * 24),
}

if triton.knobs.runtime.interpret:
    pytest.skip("the interpreter has no driver", allow_module_level=True)


def test_python_calls_are_counted():
    def called(n):
        return [len("") for _ in range(n)]

    one, two = (host.counted(lambda n=n: called(n)) for n in (1, 2))
    assert two == one + 1, "a call to a function in C is one"
    assert host.counted(lambda: None) == 0, "the outermost does not count"


def test_what_a_gpu_was_claimed_for_is_compiled_afterwards():
    x, scores = torch.ones(4, 32), torch.rand(64, 4)
    with claimed():
        smart_weight(scores, scores, 2, 4, 0.1)
        masked_linear(x, torch.ones(32, 32), torch.ones(2, 2), tile=(16, 16))
    used = [kernel for kernel in gc.get_objects() if type(kernel) is JITFunction and hasattr(kernel, "compile")]
    assert len(used) >= 3 and all(kernel.compile is triton.compiler.compile for kernel in used)


def test_torch_ops_inside_of_ours_are_seen():
    x, weight, mask = torch.ones(32, 32), torch.ones(32, 32), torch.ones(2, 2)
    with host.Ops() as seen:
        masked_linear(x, weight, mask, tile=(16, 16))
    names = {op._schema.name for op in seen.seen}
    assert not [name for name in names if "smart_kernels" in name]
    assert [op for op in seen.seen if host.is_kernel(op)], "the reference multiplies"


@pytest.mark.parametrize(
    ("op", "kernel"),
    [
        (torch.ops.aten.empty.memory_format, False),
        (torch.ops.aten.view.default, False),
        (torch.ops.aten.transpose.int, False),
        (torch.ops.aten.new_empty.default, False),
        (torch.ops.aten.zeros.default, True),
        (torch.ops.aten.sum.dim_IntList, True),
        (torch.ops.aten.add_.Tensor, True),
        (torch.ops.aten.mm.out, True),
    ],
    ids=str,
)
def test_views_and_memory_are_no_kernels(op, kernel):
    assert host.is_kernel(op) is kernel


def test_counts_are_the_same_each_time_and_of_launches(capsys, tmp_path):
    tables = []
    for name in ("one.csv", "two.csv"):
        assert main(["host", "--filter", "^(soft_topk|smart_weight) fwd", "--out", str(tmp_path / name)]) == 0
        with open(tmp_path / name, newline="") as file:
            tables.append(
                [[row[key] for key in ("name", "pass_", "launches", "calls")] for row in csv.DictReader(file)]
            )
    assert tables[0] == tables[1] and {row[2] for row in tables[0]} == {"1", "2"}
    assert "x F.linear" in capsys.readouterr().out


@pytest.mark.parametrize("name, pass_", COSTS, ids=str)
def test_a_call_costs_no_more(name, pass_):
    (case,) = [case for case in cases() if case.name == name]
    with claimed() as driver:
        call, wanted = case.make()
        run = host.step(call, wanted) if pass_ == "fwd+bwd" else torch.no_grad()(call)
        for _ in range(host.WARM):
            run()
        driver.launches.clear()
        calls = host.counted(run)
        launches = len(driver.launches)
    most, expected = COSTS[name, pass_]
    assert launches == expected
    assert calls <= most


@pytest.mark.parametrize("name", PRUNERS)
def test_a_step_of_a_model_costs_no_more(name):
    (case,) = [case for case in cases() if case.name == name]
    with claimed() as driver:
        run, _ = case.make()
        for _ in range(host.WARM):
            run()
        driver.launches.clear()
        calls = host.counted(run)
        launches = len(driver.launches)
        with host.Ops() as ops:
            run()
    most, expected, torchs = PRUNERS[name]
    assert (launches, sum(map(host.is_kernel, ops.seen))) == (expected, torchs)
    assert "step" not in name.split(",")[0] or launches + torchs <= 12
    assert calls <= most * case.layers


def test_every_op_has_a_case():
    names = " ".join(case.name for case in cases())
    others = {"quantize_fp8", "quantize_int8", "quantized_semi_structured_pack"}  # only torch runs
    assert [name for name in set(ops.__all__) - others if name not in names] == []


def test_what_was_replaced_is_back_afterwards():
    x, weight, mask = torch.rand(32, 32), torch.rand(32, 32), torch.ones(2, 2)
    before = masked_linear(x, weight, mask, tile=(16, 16))
    with claimed() as driver:
        masked_linear(x, weight, mask, tile=(16, 16))
        assert len(driver.launches) == 3
    assert torch.equal(masked_linear(x, weight, mask, tile=(16, 16)), before)
    assert len(driver.launches) == 3
