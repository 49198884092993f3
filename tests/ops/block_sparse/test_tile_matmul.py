"""The kernels for few rows of x and for tiles that are narrow in K, with what the public op does not reach."""

import itertools

import pytest
import torch
import triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from triton.runtime.interpreter import InterpreterBuilder

from smart_kernels.kernels.block_sparse.gather import block_gather_kernel
from smart_kernels.ops.block_sparse import kernel_rows
from smart_kernels.ops.block_sparse import tile_matmul as _tile_matmul
from smart_kernels.ops.block_sparse.tile_matmul import FEW_ROWS, TileProduct, plan_tiles, splits, takes_tiles
from smart_kernels.ops.common.blocks import BlockRows
from smart_kernels.ops.common.launch import all_given
from smart_kernels.reference.common.epilogue import ACTIVATIONS, finish
from tests.util import assert_close

from .test_linear import dense, make

INTERPRETED = triton.knobs.runtime.interpret
INTERPRETER = pytest.mark.skipif(not INTERPRETED, reason="needs the interpreter")


@pytest.fixture(params=[pytest.param("cpu", marks=INTERPRETER), pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return request.param


@pytest.fixture
def pieces(monkeypatch):
    """Set how many programs share a row."""
    return lambda count: monkeypatch.setattr(_tile_matmul, "splits", lambda rows, steps: count)


def tile_matmul(x, values, rows, out_features, bias=None, residual=None, activation=None, dtype=None):
    """The product, planned anew for each call: what is patched is seen."""
    tensors = all_given(x, values, *rows.lists, bias, residual)
    product = TileProduct(out_features, activation, dtype, "ieee", False)
    return plan_tiles(*tensors, product)(*tensors)


def lists(values, crow, col):
    return BlockRows(crow[:-1], crow[1:], col)


def problem(M, N, K, block, dtype=torch.float32, device="cpu", density=0.5):
    """x, values, their lists, bias, and the sums without bias in float64."""
    x, values, crow, col, bias = (t.detach() for t in make(M, N, K, block, dtype, device, density))
    exact = x.double() @ dense(values, crow, col, N, K).double().T
    return x, values, lists(values, crow, col), bias, exact


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("block", [(16, 16), (64, 64), (24, 40)], ids=str)
def test_shares_of_a_row_add_up(count, block, dtype, device, pieces):
    pieces(count)
    x, values, rows, bias, exact = problem(5, 64, 320, block, dtype, device)
    y = tile_matmul(x, values, rows, 64, bias)
    assert y.dtype == dtype
    assert_close("y", y, exact + bias.double(), dtype)
    assert torch.equal(y, tile_matmul(x, values, rows, 64, bias))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(
    st.integers(1, 80),
    st.integers(1, 90),
    st.integers(1, 150),
    st.tuples(st.integers(4, 70), st.integers(4, 140)) | st.sampled_from([(8, 8), (16, 32), (32, 16), (128, 64)]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_any_shape(device, pieces, M, N, K, block, count, density):
    pieces(count)
    x, values, rows, bias, exact = problem(M, N, K, block, device=device, density=density)
    assert_close("y", tile_matmul(x, values, rows, N, bias), exact + bias.double(), torch.float32)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("M, count", [(3, 1), (3, 2), (70, 1)], ids=["decode", "decode-split", "gather"])
def test_epilogue(activation, M, count, device, pieces):
    pieces(count)
    x, values, rows, bias, exact = problem(M, 24, 100, (16, 16), torch.float16, device)
    residual = torch.randn(24, M, device=device).half().T
    y = tile_matmul(x, values, rows, 24, bias, residual, activation, torch.float32)
    assert y.dtype == torch.float32
    assert_close("y", y, finish(exact, bias.double(), residual.double(), activation), torch.float16)


@INTERPRETER
@pytest.mark.parametrize("block", [(128, 16), (24, 40)], ids=str)
def test_w_on_the_left(block, dtype, monkeypatch):
    config = triton.Config({"BLOCK_M": 16, "W_LEFT": True}, num_warps=4, num_stages=2)
    monkeypatch.setattr(block_gather_kernel, "configs", [config])
    x, values, rows, bias, exact = problem(70, 200, 104, block, dtype)
    residual = torch.randn(70, 200)
    y = tile_matmul(x, values, rows, 200, bias, residual, "silu", torch.float32)
    assert_close("y", y, finish(exact, bias.double(), residual.double(), "silu"), dtype)


@pytest.mark.parametrize("M", [6, 70])
@pytest.mark.parametrize("block", [(32, 64), (16, 32), (40, 24)], ids=str)
def test_transposed_weight_and_any_strides(M, block, device):
    """Run the gradient of x."""
    N, K = 72, 80
    _, values, crow, col, _ = (t.detach() for t in make(1, N, K, block, device=device))
    dy = torch.randn(N, M, device=device).T
    columns = BlockRows.transposed(kernel_rows.block_rows(crow, len(values)), col, -(-K // block[1]))
    dx = tile_matmul(dy, values.mT, columns, K)
    assert_close("dx", dx, dy.double() @ dense(values, crow, col, N, K).double(), torch.float32)


@pytest.mark.parametrize("M", [6, 70])
def test_what_no_tile_needs_is_not_read(M, device):
    """Steps that a row does not fill, edges, and tiles cut into several pieces."""
    for block, count in itertools.product([(16, 16), (16, 40), (16, 128)], [1, 2] if M == 6 else [1]):
        N, K = 32, 170
        x, values, crow, col, bias = (t.detach() for t in make(M, N, K, block, device=device, density=0.3))
        dead = torch.ones(-(-K // block[1]) * block[1], dtype=torch.bool, device=device).view(-1, block[1])
        dead[col.long()] = False
        wide = torch.full((M, 256), float("nan"), device=device)
        wide[:, :K] = x.masked_fill(dead.flatten()[:K], float("nan"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_tile_matmul, "splits", lambda rows, steps, count=count: count)
            y = tile_matmul(wide[:, :K], values, lists(values, crow, col), N, bias)
        exact = x.double() @ dense(values, crow, col, N, K).double().T + bias.double()
        assert_close(f"{block} {count}", y, exact, torch.float32)


def test_an_infinite_input_stays_infinite(device):
    x, values, rows, _, _ = problem(2, 16, 80, (16, 16), device=device, density=1.0)  # 5 tiles, 4 of them a step
    x[0, 70] = float("inf")
    y = tile_matmul(x, values, rows, 16)
    assert y[0].isinf().all() and y[1].isfinite().all()


@INTERPRETER
@pytest.mark.parametrize("density", [0.0, 0.25, 1.0])
@pytest.mark.parametrize(
    "M, block, gather, parts",
    [(5, (64, 64), 1, 1), (5, (16, 16), 4, 1), (5, (128, 128), 1, 2), (80, (32, 16), 4, 1), (80, (32, 24), 8, 3)],
    ids=["decode", "decode-narrow", "decode-large", "gather", "gather-cut"],
)
def test_executed_products_are_the_steps_of_the_lists(M, block, gather, parts, density, monkeypatch, pieces):
    """fp16: a step is 64 columns. Each stored tile is read once, whatever the number of pieces."""
    x, values, rows, _, _ = problem(M, 128, 288, block, torch.float16, density=density)
    count, dot = 0, InterpreterBuilder.create_dot

    def counted(*dot_args):
        nonlocal count
        count += 1
        return dot(*dot_args)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", counted)
    steps = sum(-(-length * parts // gather) for length in (rows.end - rows.start).tolist())
    programs = triton.cdiv(M, 16) if M > FEW_ROWS else max(1, block[0] // 64)
    for shares in (1, 4) if M <= FEW_ROWS else (1,):
        pieces(shares)
        count = 0
        tile_matmul(x, values, rows, 128)
        assert count == steps * programs


def test_which_shapes_take_tiles():
    half, single = torch.float16, torch.float32
    assert takes_tiles(64, 64, half) and takes_tiles(1, 128, half)
    assert not takes_tiles(65, 64, half) and not takes_tiles(65, 128, half)
    assert all(takes_tiles(65, narrow, half) for narrow in (8, 16, 24, 32, 48))
    assert takes_tiles(65, 16, single) and not takes_tiles(65, 32, single)


def test_rows_are_shared_until_the_device_is_full():
    assert splits(rows=224, steps=20) == 1
    assert splits(rows=132, steps=20) == 1
    assert splits(rows=64, steps=20) == 4
    assert splits(rows=64, steps=9) == 2
    assert splits(rows=64, steps=3) == 1
    assert splits(rows=1, steps=10**6) == 256
