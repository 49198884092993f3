"""``pytest bench --benchmark-only``: the cases of ``python -m bench``, at one modest size, under pytest-benchmark."""

import pytest
import torch

from .__main__ import cases
from .case import Case, Shape, wrong

CUDA = torch.cuda.is_available()
SHAPE = Shape("modest", 2048, 2048, 2048, "") if CUDA else Shape("modest", 64, 512, 512, "")
WHERE = ("cuda", torch.bfloat16) if CUDA else ("cpu", torch.float32)
CASES = [case for what in ("ops", "layers") for case in cases(what, *WHERE, (SHAPE,))]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_speed(case: Case, benchmark):
    p = case.problem
    assert wrong(case) is None
    benchmark.group = f"{p.op} {p.block} {p.sparsity:.2f} {p.pass_}"

    def run():
        case.run()
        if CUDA:
            torch.cuda.synchronize()

    benchmark(run)
