"""The machine code of the kernels, for GPUs that need not be here: no spill, no serialised wgmma, shared memory
under the limit, tensor cores used, 16-byte loads, and no more instructions in the matrix loop than budgeted.

A sample; ``python -m bench codegen`` compiles everything, and tests/everything.py runs that.
"""

import pytest
import triton

from bench.codegen.table import TARGETS, census, faults

if triton.knobs.runtime.interpret:
    pytest.skip("the interpreter replaces the compiler", allow_module_level=True)

QUICK = (
    "soft_topk 1x1000000 cost",
    "masked_linear 64x64 bf16",
    "block_sparse_linear 64x64 bf16",
    "block_sparse_linear 128x8 bf16",
    "decode 16 rows 64x64 bf16",
    "semi_structured_linear 2:4 M=16 bf16",
)


OFTEN = ("sm_90", "gfx942")  # the others belong to `make test-all`: this is what takes a compiler longest


@pytest.mark.parametrize("target", [t if t in OFTEN else pytest.param(t, marks=pytest.mark.slow) for t in TARGETS])
def test_machine_code(target):
    rows = census(target, QUICK)
    compiled = {row["kernel"] for row in rows}
    expected = {"block_matmul_kernel", "block_grad_kernel", "weight_grad_kernel"}
    expected |= {"block_gather_kernel", "block_decode_kernel", "sum_pieces_kernel"}
    assert expected <= compiled, "a kernel was not seen"
    wrong = [
        f"{row['case']}: {row['kernel']} {row.get('config', '')}: {fault}" for row in rows for fault in faults(row)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("target", "cases", "kernels"),
    [
        ("sm_80", ("sparse mma bf16 M=64",), {"sparse_mma_kernel"}),
        ("sm_89", ("sparse mma fp8 M=64",), {"sparse_mma_kernel"}),
        ("sm_90", ("sparse wgmma_rs bf16 M=64", "sparse wgmma_rs fp8 M=64"), {"sparse_wgmma_kernel"}),
        ("sm_120", ("smart_linear 1x1 bf16",), {"weight_grad_kernel"}),  # spills without a limit of registers (0040)
    ],
)
def test_one_target(target, cases, kernels):
    rows = census(target, cases)
    assert {row["kernel"] for row in rows} >= kernels, "a kernel was not seen"
    wrong = [f"{row['case']}: {row.get('config', '')}: {fault}" for row in rows for fault in faults(row)]
    assert not wrong, "\n".join(wrong)
