from itertools import pairwise

import numpy
import pytest
import torch
import triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import InterpreterBuilder

from smart_kernels.kernels.common.block_grad import block_grad_kernel
from smart_kernels.kernels.common.block_matmul import block_matmul_kernel
from smart_kernels.ops.block_sparse import kernel_blocks, kernel_rows
from smart_kernels.ops.block_sparse.index import block_index, check_indices
from smart_kernels.ops.block_sparse.linear import _block_sparse_linear, block_sparse_linear
from smart_kernels.ops.common import block_matmul as _matmul
from smart_kernels.ops.common.arguments import precision
from smart_kernels.reference.common.epilogue import ACTIVATIONS, finish
from tests.util import TOLERANCE, assert_close

SHAPES = [  # M, N, K, (bn, bk)
    pytest.param(33, 48, 64, (16, 16), id="even"),
    pytest.param(16, 100, 90, (32, 32), id="ragged"),
    pytest.param(1, 64, 200, (64, 64), id="one-row"),
    pytest.param(9, 256, 40, (128, 8), id="tall"),
    pytest.param(9, 20, 300, (8, 128), id="wide"),
    pytest.param(9, 70, 20, (32, 1), id="column"),
    pytest.param(9, 50, 100, (24, 40), id="no-power-of-two"),
    pytest.param(9, 6, 128, (1, 64), id="row"),
    pytest.param(20, 200, 96, (96, 48), id="several-parts"),
    pytest.param(5, 10, 12, (32, 32), id="smaller-than-a-block"),
    pytest.param(70, 100, 200, (64, 96), id="many-rows"),
    pytest.param(66, 40, 48, (16, 8), id="many-rows-narrow"),
    pytest.param(66, 40, 72, (24, 40), id="many-rows-no-power-of-two"),
]
NAMES = ("dx", "dvalues", "dbias")


def make(M, N, K, block, dtype=torch.float32, device="cpu", density=0.5):
    """x, values, crow_indices, col_indices, bias; the middle block row is empty."""
    bn, bk = block
    rows, cols = -(-N // bn), -(-K // bk)
    live = torch.rand(rows, cols) < density
    if rows > 2:
        live[rows // 2] = False
    weight = torch.zeros(rows * bn, cols * bk)
    weight[:N, :K] = torch.randn(N, K)
    values = weight.view(rows, bn, cols, bk).transpose(1, 2)[live]
    crow = torch.cat([torch.zeros(1), live.sum(1).cumsum(0)]).int().to(device)
    x, values, bias = (t.to(device, dtype).requires_grad_() for t in (torch.randn(M, K), values, torch.randn(N)))
    return x, values, crow, live.nonzero()[:, 1].int().to(device), bias


def dense(values, crow, col, N, K):
    """(N, K), differentiable in ``values``."""
    (nnz, bn, bk), rows, cols = values.shape, -(-N // values.shape[1]), -(-K // values.shape[2])
    row = torch.arange(rows, device=crow.device).repeat_interleave(crow.diff(), output_size=nnz)
    blocks = values.new_zeros(rows * cols, bn, bk).index_copy(0, row * cols + col, values)
    return blocks.view(rows, cols, bn, bk).transpose(1, 2).reshape(rows * bn, cols * bk)[:N, :K]


def exact(x, values, crow, col, bias, dy):
    """y, dx, dvalues, dbias in float64."""
    inputs = [t.detach().double().requires_grad_() for t in (x, values, bias)]
    y = inputs[0] @ dense(inputs[1], crow, col, len(bias), x.shape[1]).T + inputs[2]
    return y, *torch.autograd.grad(y, inputs, dy.double())


def check(args, dtype):
    x, values, *_, bias = args
    y = block_sparse_linear(*args, out_features=len(bias))
    dy = torch.randn_like(y)
    grads = torch.autograd.grad(y, (x, values, bias), dy)
    for name, out, ref in zip(("y", *NAMES), (y, *grads), exact(*args, dy), strict=True):
        assert out.dtype == dtype
        assert_close(name, out, ref, dtype)


@pytest.mark.parametrize("M, N, K, block", SHAPES)
def test_matches_dense(M, N, K, block, dtype, device):
    check(make(M, N, K, block, dtype, device), dtype)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 20),
    st.integers(1, 48),
    st.integers(1, 48),
    st.tuples(st.integers(4, 70), st.integers(4, 70)) | st.sampled_from([(16, 16), (32, 32), (64, 16)]),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_any_shape(device, M, N, K, block, density):
    check(make(M, N, K, block, device=device, density=density), torch.float32)


@pytest.mark.parametrize("setting", ["highest", "high"])
def test_float32_precision_is_torchs_switch(setting, device):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(setting)
        assert precision() == {"highest": "ieee", "high": "tf32"}[setting]
        check(make(8, 32, 32, (16, 16), device=device), torch.float32 if device == "cpu" else torch.float16)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="counts inside the interpreter")
@pytest.mark.parametrize("density", [0.0, 0.25, 1.0])
def test_executed_products_are_live_blocks_times_row_blocks(density, monkeypatch):
    M, args = 80, make(80, 192, 256, (64, 64), density=density)
    nnz, count, dot = len(args[1]), 0, InterpreterBuilder.create_dot

    def counted(*dot_args):
        nonlocal count
        count += 1
        return dot(*dot_args)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", counted)
    y = block_sparse_linear(*args, out_features=192)
    row_blocks = triton.cdiv(M, 16)  # the interpreter takes the first config, BLOCK_M = 16
    assert count == nnz * row_blocks
    y.backward(torch.randn_like(y))
    assert count == 3 * nnz * row_blocks


@pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="on a GPU the tuner decides")
@pytest.mark.parametrize("M, block, taken", [(70, (32, 64), True), (66, (64, 128), True), (66, (24, 72), False)])
def test_descriptors(M, block, taken, dtype, monkeypatch):
    copies, load = [], InterpreterBuilder.create_descriptor_load
    monkeypatch.setattr(InterpreterBuilder, "create_descriptor_load", lambda *a: copies.append(1) or load(*a))
    monkeypatch.setattr(_matmul, "hopper", lambda: True)
    config = triton.Config({"BLOCK_M": 128, "TMA": True, "W_LEFT": False}, num_warps=4, num_stages=3)
    monkeypatch.setattr(block_matmul_kernel, "configs", [config])
    check(make(M, 96, 128, block, dtype), dtype)
    assert bool(copies) == (taken and dtype.itemsize == 2)


@pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="on a GPU the tuner decides")
@pytest.mark.parametrize("M, block, descriptors", [(257, (128, 64), True), (70, (24, 72), False)])
def test_w_on_the_left(M, block, descriptors, dtype, monkeypatch):
    """The sums are y.T: bias, residual and rows beyond the edges lie along the other axis."""
    copies, load = [], InterpreterBuilder.create_descriptor_load
    monkeypatch.setattr(InterpreterBuilder, "create_descriptor_load", lambda *a: copies.append(1) or load(*a))
    monkeypatch.setattr(_matmul, "hopper", lambda: descriptors)
    rows = 256 if descriptors else 16
    config = triton.Config({"BLOCK_M": rows, "TMA": descriptors, "W_LEFT": True}, num_warps=4, num_stages=2)
    monkeypatch.setattr(block_matmul_kernel, "configs", [config])
    args = make(M, 200, 192, block, dtype)
    check(args, dtype)
    assert bool(copies) == (descriptors and dtype.itemsize == 2)
    x, values, crow, col, bias = (t.detach() for t in args)
    residual = torch.randn(M, 200)
    y = block_sparse_linear(
        x, values, crow, col, bias, out_features=200, activation="gelu", residual=residual, out_dtype=torch.float32
    )
    sums = x.double() @ dense(values, crow, col, 200, 192).double().T
    assert_close("y", y, finish(sums, bias.double(), residual.double(), "gelu"), dtype)


@pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="on a GPU the tuner decides")
@pytest.mark.parametrize("block", [(64, 16), (32, 32), (16, 16), (24, 40)], ids=str)
def test_a_gradient_of_several_blocks(block, dtype, monkeypatch):
    """Rows that the blocks of a program do not fill, an empty one, edges, rows of x that no step fills."""
    config = triton.Config({"BLOCK_M": 16, "WIDTH": 64}, num_warps=4, num_stages=2)
    monkeypatch.setattr(block_grad_kernel, "configs", [config])
    check(make(37, 136, 200, block, dtype, density=0.6), dtype)


def test_dead_columns_are_not_read(device):
    x, values, crow, col, bias = make(9, 64, 96, (16, 32), device=device)
    x, column = x.detach(), 1
    x[:, 32:64] = float("nan")
    y = block_sparse_linear(x, values, crow, col, bias, out_features=64).view(9, 4, 16)
    reads = torch.stack([(col[a:b] == column).any() for a, b in pairwise(crow)])
    assert reads.any() and not reads.all()
    assert y[:, reads].isnan().all() and y[:, ~reads].isfinite().all()


@pytest.mark.parametrize("block", [(32, 32), (24, 40), (8, 128), (32, 1)])
def test_nothing_beyond_the_edge_is_read(block, device):
    M, N, K = 9, 50, 70
    args = make(M, N, K, block, device=device)
    nan = torch.full((64, 256), float("nan"), device=device)
    x, dy = nan.clone(), nan.clone()
    x[:M, :K], dy[:M, :N] = args[0].detach(), torch.randn(M, N)
    inside = x[:M, :K].requires_grad_()
    y = block_sparse_linear(inside, *args[1:], out_features=N)
    grads = torch.autograd.grad(y, (inside, args[1], args[4]), dy[:M, :N])
    for name, out, ref in zip(("y", *NAMES), (y, *grads), exact(*args, dy[:M, :N]), strict=True):
        assert_close(name, out, ref, torch.float32)


def test_strides_and_leading_dimensions(device):
    x, values, crow, col, bias = make(6, 40, 48, (16, 16), device=device)
    dy = torch.ones(6, 40, device=device)
    expected = exact(x, values, crow, col, bias, dy)
    transposed = x.detach().T.contiguous().T.view(2, 3, 48).requires_grad_()
    strided = values.detach().mT.contiguous().mT.requires_grad_()
    y = block_sparse_linear(transposed, strided, crow.long(), col.long(), bias, out_features=40)
    assert y.shape == (2, 3, 40)
    grads = torch.autograd.grad(y.sum(), (transposed, strided, bias))  # stride 0
    for name, out, ref in zip(("y", *NAMES), (y, *grads), expected, strict=True):
        assert_close(name, out.view(ref.shape), ref, torch.float32)
    vector = block_sparse_linear(x[0], values, crow, col, bias, out_features=40)
    assert_close("vector", vector, expected[0][0], torch.float32)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_epilogue(activation, dtype, device):
    x, values, crow, col, bias = make(9, 50, 64, (24, 40), dtype, device)
    residual = torch.randn(50, 9, device=device).T.requires_grad_()
    options = {"out_features": 50, "activation": activation, "residual": residual, "out_dtype": torch.float32}
    with torch.no_grad():
        fused = block_sparse_linear(x, values, crow, col, bias, **options)
    y = block_sparse_linear(x, values, crow, col, bias, **options)
    inputs, dy = (x, values, bias, residual), torch.randn_like(y)
    wide = [t.detach().double().requires_grad_() for t in inputs]
    expected = finish(wide[0] @ dense(wide[1], crow, col, 50, 64).T, wide[2], wide[3], activation)
    assert fused.dtype == y.dtype == torch.float32
    assert_close("fused", fused, expected, dtype)
    assert_close("y", y, expected, dtype)
    grads = torch.autograd.grad(y, inputs, dy), torch.autograd.grad(expected, wide, dy.double())
    for name, out, ref in zip((*NAMES, "dresidual"), *grads, strict=True):
        assert_close(name, out, ref, dtype)


@pytest.mark.parametrize("out_dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_out_dtype(out_dtype, dtype, device):
    x, values, crow, col, bias = make(5, 32, 48, (16, 16), dtype, device)
    y = block_sparse_linear(x, values, crow, col, bias, out_features=32, out_dtype=out_dtype)
    assert y.dtype == out_dtype
    dy = torch.randn_like(y)
    grads = torch.autograd.grad(y, (x, values, bias), dy)
    tolerance = max(dtype, out_dtype, key=TOLERANCE.get)
    for name, out, ref in zip(("y", *NAMES), (y, *grads), exact(x, values, crow, col, bias, dy), strict=True):
        assert_close(name, out, ref, tolerance)
        assert name == "y" or out.dtype == dtype


@pytest.mark.parametrize("block", [(16, 16), (24, 40), (8, 128), (128, 8), (96, 48), (256, 256)])
def test_index_changes_nothing(block, device):
    M, N, K = 6, 100, 120
    x, values, crow, col, bias = make(M, N, K, block, device=device)
    index = block_index(crow, col, -(-K // block[1]))
    y = block_sparse_linear(x, values, crow, col, bias, out_features=N, index=index)
    dy = torch.randn_like(y)
    grads = torch.autograd.grad(y, (x, values, bias), dy)
    for name, out, ref in zip(("y", *NAMES), (y, *grads), exact(x, values, crow, col, bias, dy), strict=True):
        assert_close(name, out, ref, torch.float32)


def test_index_starts_long_rows_first():
    _, values, crow, col, _ = make(1, 100, 200, (16, 16))
    order, _, _, rows, slots = block_index(crow, col, 13).split([7, 13, 13, len(values), len(values)])
    assert (crow.diff()[order.long()].diff() <= 0).all() and sorted(order.tolist()) == list(range(7))
    assert torch.equal(rows, kernel_rows.block_rows(crow, len(values))[slots.long()])
    assert (col[slots.long()].diff() >= 0).all()


def test_unaligned_tensors(dtype, device):
    args = make(7, 48, 64, (16, 16), dtype, device)
    x, values, bias = args[0].detach(), args[1].detach(), args[4].detach()
    shifted = [torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape).requires_grad_() for t in (x, values, bias)]
    check((shifted[0], shifted[1], *args[2:4], shifted[2]), dtype)


def test_rows_beyond_2_to_the_31_elements(device):
    stride = 2**31 + 8
    try:
        memory = torch.from_numpy(numpy.empty(2 * stride, numpy.float16))  # pages that nobody touches cost nothing
    except MemoryError:
        pytest.skip("needs 8 GB of addresses")
    if device == "cuda":
        memory = torch.empty_like(memory, device=device)
    x, values, crow, col, bias = make(2, 32, 32, (16, 16), torch.float16, device)
    far = memory.as_strided((2, 32), (stride, 1)).copy_(x.detach())
    check((far.requires_grad_(), values, crow, col, bias), torch.float16)


@pytest.mark.parametrize("M, N, K", [(0, 32, 32), (4, 0, 32), (4, 32, 0)])
def test_empty(M, N, K, device):
    x, values, crow, col, bias = make(M, N, K, (16, 16), device=device, density=1.0)
    y = block_sparse_linear(x, values, crow, col, bias, out_features=N)
    assert y.shape == (M, N)
    dx, dvalues, dbias = torch.autograd.grad(y.sum(), (x, values, bias))
    assert dx.shape == x.shape and not dvalues.any() and torch.equal(dbias, torch.full_like(bias, M))


def test_autocast(device):
    args = make(8, 32, 32, (16, 16), device=device)
    with torch.autocast(device, torch.bfloat16):
        y = block_sparse_linear(*args, out_features=32)
    dy = torch.randn_like(y)
    grads = torch.autograd.grad(y, (args[0], args[1], args[4]), dy)
    assert y.dtype == torch.bfloat16
    for name, out, ref in zip(("y", *NAMES), (y, *grads), exact(*args, dy), strict=True):
        assert_close(name, out, ref, torch.bfloat16)
        assert name == "y" or out.dtype == torch.float32


@pytest.mark.parametrize("needed", [0, 1, 4], ids=NAMES)
def test_gradients_nobody_needs_are_skipped(needed, device):
    args = make(8, 32, 32, (16, 16), device=device)
    for i in (0, 1, 4):
        args[i].requires_grad_(i == needed)
    called = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.append(func.__name__)
            return func(*args, **(kwargs or {}))

    y = block_sparse_linear(*args, out_features=32)
    with Record():
        y.backward(torch.ones_like(y))
    backward = {name for name in called if "block_sparse_linear" in name}
    assert backward == {0: {"block_sparse_linear_dx.default"}, 1: {"block_sparse_linear_dvalues.default"}}.get(
        needed, set()
    )


@pytest.mark.parametrize("block", [(16, 16), (24, 40), (96, 100)])
def test_index_lists_need_no_synchronisation(block):
    N, K = 100, 200
    tensors = [t.detach() for t in make(1, N, K, block)[1:4]]
    with FakeTensorMode() as mode:
        values, crow, col = map(mode.from_tensor, tensors)
        cols = -(-K // block[1])
        index = block_index(crow, col, cols)
        n, k = kernel_blocks.axes(block, (N, K))
        columns = kernel_rows.plan_columns(crow, col, cols, index)(crow, col, index)
        row_start, _, _, slots = kernel_rows.plan_transposed_rows(n, k)(*columns)
        start, _, _, order = kernel_rows.plan_rows(len(crow) - 1, n, k)(crow, col, index)
    assert len(index) == len(crow) - 1 + 2 * cols + 2 * len(values)
    assert row_start.shape == (k.blocks,) and slots.shape == (len(kernel_blocks.cut(values, n, k)),)
    assert order.shape == start.shape


@pytest.mark.parametrize("block", [(4, 4), (3, 5)])
def test_gradcheck(block, device):
    x, values, crow, col, bias = make(3, 8, 10, block, torch.float64, device)
    _, bn, bk = values.shape
    fits = dense(torch.ones_like(values), crow, col, 8, 10)  # only elements inside the matrix are free

    def f(x, weight, bias):
        padded = torch.nn.functional.pad(weight * fits, (0, -10 % bk, 0, -8 % bn))
        blocks = padded.view(-(-8 // bn), bn, -(-10 // bk), bk).transpose(1, 2)
        row = torch.arange(len(blocks), device=device).repeat_interleave(crow.diff())
        return block_sparse_linear(x, blocks[row, col.long()], crow, col, bias, out_features=8)

    weight = dense(values, crow, col, 8, 10).detach().requires_grad_()
    assert torch.autograd.gradcheck(f, (x, weight, bias))


@pytest.mark.parametrize("block, has_bias", [((16, 16), False), ((24, 40), True)])
def test_opcheck(block, has_bias, device):
    *args, bias = make(5, 48, 80, block, device=device)
    opcheck(_block_sparse_linear, (*args, bias if has_bias else None, 48))


def test_compiles(device):
    args = make(8, 48, 64, (16, 16), device=device)
    inputs = args[0], args[1], args[4]

    def loss(*args):
        return block_sparse_linear(*args, out_features=48).relu().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(*args), inputs)
    for name, out, ref in zip(NAMES, torch.autograd.grad(compiled(*args), inputs), expected, strict=True):
        assert_close(name, out, ref, torch.float32)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"values": torch.zeros(3, 16)}, r"values must be \(nnz, bn, bk\)"),
        ({"crow": torch.zeros(3).int()}, r"crow_indices must be \(4,\) int32 or int64"),
        ({"col": torch.zeros(8)}, "col_indices must be"),
        ({"bias": torch.zeros(40)}, r"bias must be \(out_features,\) = \(48,\)"),
        ({"x": torch.zeros(4, 64).half()}, "must share one of"),
        ({"x": torch.zeros(())}, r"x must be \(..., K\)"),
        ({"x": torch.zeros(4, 64, device="meta")}, "must be on the device of x"),
        ({"residual": torch.zeros(4, 47)}, r"residual must be \(4, 48\)"),
        ({"activation": "tanh"}, "activation must be"),
        ({"out_dtype": torch.int8}, "out_dtype must be"),
        ({"index": torch.zeros(5).int()}, "index must be"),
    ],
    ids=[
        *("values", "crow", "col-dtype", "bias", "dtype", "scalar", "device"),
        *("residual", "activation", "out-dtype", "index"),
    ],
)
def test_rejects(change, message):
    args = dict(zip(("x", "values", "crow", "col", "bias"), make(4, 48, 64, (16, 16)), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        block_sparse_linear(*list(args.values())[:5], **dict(list(args.items())[5:]), out_features=48)


def test_check_indices():
    crow, col = torch.tensor([0, 2, 3]), torch.tensor([0, 2, 1])
    check_indices(crow, col, (2, 3))
    check_indices(torch.tensor([0, 0]), torch.tensor([], dtype=torch.int), (1, 5))
    for bad_crow, bad_col, message in (
        (crow[:2], col, r"crow_indices must be \(rows \+ 1,\)"),
        (torch.tensor([0, 4, 3]), col, "crow_indices must rise from 0 to nnz"),
        (torch.tensor([1, 2, 3]), col, "crow_indices must rise from 0 to nnz"),
        (crow, torch.tensor([0, 3, 1]), r"col_indices must be in 0\.\.2"),
        (crow, torch.tensor([0, -1, 1]), r"col_indices must be in 0\.\.2"),
        (crow, torch.tensor([2, 0, 1]), "col_indices must rise inside each row"),
        (crow, torch.tensor([1, 1, 1]), "col_indices must rise inside each row"),
    ):
        with pytest.raises(ValueError, match=message):
            check_indices(bad_crow, bad_col, (2, 3))
