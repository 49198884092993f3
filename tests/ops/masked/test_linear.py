import pytest
import torch
import torch.nn.functional as F
import triton
from hypothesis import given
from hypothesis import strategies as st

from smart_kernels.kernels.common.block_matmul import CONFIGS
from smart_kernels.kernels.masked.linear import weight_grad_kernel
from smart_kernels.ops.common.plan import forget
from smart_kernels.ops.masked import matmul as _masked_matmul
from smart_kernels.ops.masked.linear import masked_linear
from smart_kernels.reference.masked.linear import apply_mask
from smart_kernels.shapes.tiles import expand, grid, reduce_sum
from tests.conftest import INTERPRETED
from tests.util import assert_close

SHAPES = [  # M, N, K, tile
    pytest.param(7, 20, 33, (1, 1), id="element"),
    pytest.param(7, 20, 33, (1, 33), id="row"),
    pytest.param(17, 40, 72, (8, 4), id="many-tiles-in-a-block"),
    pytest.param(33, 32, 48, (16, 16), id="tile-is-a-block"),
    pytest.param(5, 50, 70, (32, 32), id="ragged"),
    pytest.param(1, 48, 64, (16, 32), id="one-token"),
    pytest.param(9, 50, 90, (24, 40), id="no-power-of-two"),
    pytest.param(6, 13, 17, (5, 6), id="odd"),
    pytest.param(4, 300, 140, (256, 128), id="tile-over-blocks"),
    pytest.param(4, 384, 192, (256, 128), id="edge-tile-of-fewer-blocks"),
    pytest.param(4, 150, 90, (200, 96), id="tile-over-the-matrix"),
    pytest.param(3, 170, 90, (168, 88), id="parts"),
]
NAMES = ("x", "weight", "mask", "bias")


def make_mask(shape, tile, device="cpu", dead=0.4):
    """Values in (0.1, 1), a part of them 0; the first always live."""
    mask = torch.rand(grid(shape, tile)) * 0.9 + 0.1
    mask[torch.rand_like(mask) < dead] = 0
    mask[0, 0] = 0.7
    return mask.to(device)


def make_inputs(M, N, K, tile, dtype=torch.float32, device="cpu"):
    """x, weight, mask, bias that want gradients, and dy."""
    x, weight, bias, dy = (torch.randn(s).to(device, dtype) for s in ((M, K), (N, K), (N,), (M, N)))
    mask = make_mask((N, K), tile, device)
    if dtype == torch.float64:
        mask = mask.double()
    return [t.requires_grad_() for t in (x, weight, mask, bias)], dy


def formula(x, weight, mask, bias, tile, eps=0.0):
    full = expand(mask, tile, weight.shape)
    return F.linear(x, torch.where(full <= eps, 0, weight * full), bias)


def gradients(function, inputs, dy):
    """The output and its gradients, of fresh leaves."""
    inputs = [t.detach().requires_grad_(t.requires_grad) for t in inputs]
    y = function(*inputs)
    wanted = [t for t in inputs if t.requires_grad]
    return y.detach(), *torch.autograd.grad(y, wanted, dy.to(y.dtype))


def check(function, exact, inputs, dy, dtype, names=NAMES):
    got = gradients(function, inputs, dy)
    want = gradients(exact, [t.detach().double().requires_grad_(t.requires_grad) for t in inputs], dy.double())
    names = ["y", *(f"d{name}" for name, t in zip(names, inputs, strict=True) if t.requires_grad)]
    for name, a, b in zip(names, got, want, strict=True):
        assert_close(name, a, b, dtype)


@pytest.mark.parametrize("M, N, K, tile", SHAPES)
def test_matches_the_formula(M, N, K, tile, dtype, device):
    inputs, dy = make_inputs(M, N, K, tile, dtype, device)
    check(lambda *t: masked_linear(*t, tile=tile), lambda *t: formula(*t, tile), inputs, dy, dtype)


@pytest.mark.parametrize("M, N, K, tile", SHAPES)
def test_matches_the_truncated_formula(M, N, K, tile, device):
    inputs, dy = make_inputs(M, N, K, tile, device=device)
    run, exact = (lambda *t: masked_linear(*t, tile=tile, eps=0.5)), (lambda *t: formula(*t, tile, 0.5))
    check(run, exact, inputs, dy, torch.float32)


@pytest.mark.skipif(not INTERPRETED, reason="on a GPU the tuner decides")
@pytest.mark.parametrize("dead_grad", [False, True])
@pytest.mark.parametrize(
    ("tile", "chunk"), [((16, 16), 1024), ((16, 16), 4), ((32, 32), 1024), ((24, 40), 1024), ((40, 128), 1024)], ids=str
)
def test_a_gradient_of_several_blocks_is_exact(tile, chunk, dead_grad, monkeypatch):
    """Rows that live blocks do not fill, one without any, edges, tiles of several blocks, rows of x that no step fills.

    The numbers are small integers, so every sum is exact.
    """
    width = 128 if max(tile) <= 32 else 256  # quarters of whole blocks, of at most 64 columns each
    config = triton.Config({"BLOCK_M": 16, "WIDTH": width}, num_warps=4, num_stages=2)
    monkeypatch.setattr(weight_grad_kernel, "configs", [config])
    monkeypatch.setattr(_masked_matmul, "MOST", chunk)
    forget()
    M, N, K = 37, 72, 200
    x, weight, bias, dy = (torch.randint(-3, 4, shape).float() for shape in ((M, K), (N, K), (N,), (M, N)))
    mask = torch.where(make_mask((N, K), tile) > 0, 0.5, 0.25)
    mask[-1] = 0.25
    inputs = [t.requires_grad_() for t in (x, weight, mask, bias)]
    _, *got = gradients(lambda *t: masked_linear(*t, tile=tile, eps=0.25, dead_grad=dead_grad), inputs, dy)
    want = gradients(lambda *t: formula(*t, tile, 0.25), [t.detach().double().requires_grad_() for t in inputs], dy)[1:]
    if dead_grad:
        want = *want[:2], reduce_sum(dy.double().T @ x.detach().double() * weight.detach().double(), tile), want[3]
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a.double(), b)
    forget()


@given(st.data())
def test_any_shape_tile_and_stride(data):
    M, N, K = (data.draw(st.integers(1, n), name) for name, n in (("M", 18), ("N", 30), ("K", 30)))
    tile = tuple(data.draw(st.sampled_from((1, 2, 8, 12, 16, 24, 64))) for _ in "nk")
    eps = data.draw(st.sampled_from((0.0, 0.5)))
    mask = make_mask((N, K), tile, dead=data.draw(st.sampled_from((0.0, 0.5, 0.95))))
    # positive: a sum over one large tile does not cancel
    x, weight, bias, dy = torch.rand(M, K + 3)[:, 3:], torch.rand(K, N).T, torch.rand(2 * N)[::2], torch.rand(M, N)
    if data.draw(st.booleans(), "transposed"):
        x, mask, dy = torch.rand(K, M).T, mask.T.contiguous().T, torch.rand(N, M).T
    if data.draw(st.booleans(), "expanded"):
        dy = torch.rand(1, 1).expand(M, N)
    run, exact = (lambda *t: masked_linear(*t, tile=tile, eps=eps)), (lambda *t: formula(*t, tile, eps))
    check(run, exact, [t.requires_grad_() for t in (x, weight, mask, bias)], dy, torch.float32)


@pytest.mark.parametrize("M, N, K, tile", SHAPES)
def test_dead_grad_reaches_dead_tiles(M, N, K, tile, device):
    inputs, dy = make_inputs(M, N, K, tile, device=device)
    y, dx, dweight, dmask, dbias = gradients(
        lambda *t: masked_linear(*t, tile=tile, eps=0.5, dead_grad=True), inputs, dy
    )
    others = gradients(lambda *t: masked_linear(*t, tile=tile, eps=0.5), inputs, dy)
    for a, b in zip((y, dx, dweight, dbias), (*others[:3], others[4]), strict=True):
        assert torch.equal(a, b)
    x, weight = inputs[0].detach().double(), inputs[1].detach().double()
    assert_close("dmask", dmask, reduce_sum(dy.double().T @ x * weight, tile), torch.float32)


@pytest.mark.parametrize("tile", [(8, 4), (16, 16), (24, 40)])
def test_dead_tiles_are_exactly_zero_and_never_read(tile, device):
    (x, weight, mask, bias), dy = make_inputs(9, 50, 90, tile, device=device)
    dead = expand(mask <= 0.5, tile, weight.shape)
    poisoned = weight.detach().masked_fill(dead, torch.nan).requires_grad_()
    run = lambda *t: masked_linear(*t, tile=tile, eps=0.5)  # noqa: E731
    clean = gradients(run, (x, weight, mask, bias), dy)
    for a, b in zip(gradients(run, (x, poisoned, mask, bias), dy), clean, strict=True):
        assert torch.equal(a, b)
    assert (clean[2][dead] == 0).all() and (clean[3][mask <= 0.5] == 0).all()


@pytest.mark.parametrize("tile", [(8, 4), (16, 16)])
def test_nan_in_the_mask_stays_visible(tile, device):
    (x, weight, mask, bias), dy = make_inputs(9, 50, 90, tile, device=device)
    mask = mask.detach().clone()
    mask[1, 1] = torch.nan
    y, dx, dweight, *_ = gradients(
        lambda *t: masked_linear(*t, tile=tile), (x, weight, mask.requires_grad_(), bias), dy
    )
    rows, cols = slice(tile[0], 2 * tile[0]), slice(tile[1], 2 * tile[1])
    assert y[:, rows].isnan().all() and dx[:, cols].isnan().all() and dweight[rows, cols].isnan().all()
    assert not y[:, : tile[0]].isnan().any() and not dx[:, : tile[1]].isnan().any()


@pytest.mark.parametrize("M, N, K, tile", SHAPES)
def test_apply_mask_has_the_same_gradients(M, N, K, tile, device):
    inputs, dy = make_inputs(M, N, K, tile, torch.float64, device)
    for dead_grad in (False, True):
        check(
            lambda *t, d=dead_grad: masked_linear(*t, tile=tile, eps=0.5, dead_grad=d),
            lambda x, w, m, b, d=dead_grad: F.linear(x, apply_mask(w, m, tile, 0.5, d), b),
            inputs,
            dy,
            torch.float64,
        )


@pytest.mark.parametrize("wanted", [("x",), ("weight",), ("mask",), ("bias",), ("x", "mask")], ids="-".join)
def test_only_wanted_gradients(wanted, device):
    inputs, dy = make_inputs(9, 24, 40, (8, 16), device=device)
    inputs = [t.detach().requires_grad_(name in wanted) for name, t in zip(NAMES, inputs, strict=True)]
    check(lambda *t: masked_linear(*t, tile=(8, 16)), lambda *t: formula(*t, (8, 16)), inputs, dy, torch.float32)


@pytest.mark.skipif(not INTERPRETED, reason="counts what the interpreter executes")
@pytest.mark.parametrize("wanted", [(), ("x",), ("weight",), ("mask",), ("weight", "mask")], ids=lambda w: "-".join(w))
@pytest.mark.parametrize("kept", [0, 1, 4])
def test_work_follows_live_blocks(kept, wanted, monkeypatch):
    from triton.runtime.interpreter import InterpreterBuilder

    dots, dot = [], InterpreterBuilder.create_dot
    monkeypatch.setattr(InterpreterBuilder, "create_dot", lambda *args: dots.append(1) or dot(*args))
    (x, weight, mask, bias), dy = make_inputs(33, 48, 64, (16, 32))
    mask = torch.zeros_like(mask).flatten().index_fill_(0, torch.randperm(6)[:kept], 0.5).view(3, 2)
    for name, t in zip(NAMES, (x, weight, mask, bias), strict=True):
        t.requires_grad_(name in wanted or (name == "bias"))
    y = masked_linear(x, weight, mask, bias, tile=(16, 32))
    live = kept * -(-33 // CONFIGS[0].kwargs["BLOCK_M"])
    assert len(dots) == live
    y.backward(dy)
    assert len(dots) - live == live * (("x" in wanted) + bool({"weight", "mask"}.intersection(wanted)))


@pytest.mark.skipif(not INTERPRETED, reason="counts inside the interpreter")
@pytest.mark.parametrize("tile, lengths", [((16, 16), [1, 3, 0, 3, 2, 5]), ((16, 16), [2, 2, 2]), ((128, 16), [4])])
def test_long_rows_start_first(tile, lengths, monkeypatch):
    mask = torch.tensor([[float(j < length) for j in range(6)] for length in lengths])
    orders, plan = [], _masked_matmul.plan_matmul

    def watched(*args):
        multiply = plan(*args)
        return lambda *tensors: orders.append(tensors[6]) or multiply(*tensors)

    monkeypatch.setattr(_masked_matmul, "plan_matmul", watched)
    forget()
    x, weight = torch.randn(3, 96), torch.randn(len(lengths) * tile[0], 96)
    y = masked_linear(x, weight, mask, tile=tile)
    assert_close("y", y, formula(x.double(), weight.double(), mask.double(), None, tile), torch.float32)
    expected = torch.tensor(lengths).argsort(descending=True, stable=True)
    assert torch.equal(orders[0][: len(lengths)], expected.int())


@pytest.mark.parametrize("shape", [(0, 40), (40,), (2, 0, 40), (2, 3, 40)], ids=str)
def test_any_leading_dimensions(shape, device):
    (_, weight, mask, bias), _ = make_inputs(1, 24, 40, (8, 16), device=device)
    x = torch.randn(shape, device=device, requires_grad=True)
    dy = torch.randn(*shape[:-1], 24, device=device)
    check(
        lambda *t: masked_linear(*t, tile=(8, 16)),
        lambda *t: formula(*t, (8, 16)),
        (x, weight, mask, bias),
        dy,
        torch.float32,
    )


def test_gradcheck(device):
    (x, weight, mask, bias), _ = make_inputs(3, 10, 12, (4, 5), torch.float64, device)
    mask = mask.detach().clamp_min(0.1).requires_grad_()  # at eps the mask is not differentiable
    assert torch.autograd.gradcheck(lambda *t: masked_linear(*t, tile=(4, 5)), (x, weight, mask, bias))


@pytest.mark.parametrize("tile", [(8, 4), (128, 96)])
def test_two_runs_are_bit_equal(tile, device):
    inputs, dy = make_inputs(9, 200, 130, tile, device=device)
    run = lambda *t: masked_linear(*t, tile=tile)  # noqa: E731
    for a, b in zip(gradients(run, inputs, dy), gradients(run, inputs, dy), strict=True):
        assert torch.equal(a, b)


def test_autocast_casts_only_x(device):
    (x, weight, mask, bias), dy = make_inputs(9, 24, 40, (8, 16), device=device)
    with torch.autocast(device, torch.bfloat16):
        y = masked_linear(x, weight, mask, bias, tile=(8, 16))
    y.backward(dy.bfloat16())
    assert y.dtype == torch.bfloat16
    assert {t.grad.dtype for t in (x, weight, mask, bias)} == {torch.float32}
    exact = [t.detach().double().requires_grad_() for t in (x, weight, mask, bias)]
    formula(*exact, (8, 16)).backward(dy.double())
    for name, t, e in zip(NAMES, (x, weight, mask, bias), exact, strict=True):
        assert_close(f"d{name}", t.grad, e.grad, torch.bfloat16)


def test_opcheck(device):
    (x, weight, mask, bias), dy = make_inputs(5, 24, 40, (8, 16), device=device)
    ops = torch.ops.smart_kernels
    torch.library.opcheck(ops.masked_linear.default, (x, weight, mask, bias, 8, 16, 0.0, False))
    dense = (dy, x.detach(), weight.detach(), mask.detach())
    torch.library.opcheck(ops.masked_linear_backward.default, (*dense, 8, 16, 0.0, False, True, True, torch.float32))


def test_compiles(device):
    inputs, dy = make_inputs(5, 24, 40, (8, 16), device=device)
    run = lambda *t: masked_linear(*t, tile=(8, 16), eps=0.5)  # noqa: E731
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for a, b in zip(gradients(compiled, inputs, dy), gradients(run, inputs, dy), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"x": torch.ones(3, 7)}, r"x must be \(\.\.\., 40\) for weight \(24, 40\), got \(3, 7\)"),
        ({"x": torch.tensor(1.0)}, r"x must be .* got \(\)"),
        ({"weight": torch.ones(24)}, r"weight must be \(N, K\), got \(24,\)"),
        ({"mask": torch.ones(3, 5)}, r"mask must be \(3, 3\) for weight \(24, 40\) and tile \(8, 16\), got \(3, 5\)"),
        ({"bias": torch.ones(3)}, r"bias must be \(24,\) for weight \(24, 40\), got \(3,\)"),
        ({"tile": (0, 16)}, r"tile must be two positive sizes, got \(0, 16\)"),
        ({"eps": 1.0}, r"eps must be in \[0, 1\), got 1.0"),
        ({"mask": torch.ones(3, 3, device="meta")}, r"mask must be on the device of x, cpu, got meta"),
    ],
)
def test_rejects_what_does_not_fit(changed, message):
    (x, weight, mask, bias), _ = make_inputs(5, 24, 40, (8, 16))
    good = {"x": x, "weight": weight, "mask": mask, "bias": bias, "tile": (8, 16), "eps": 0.0}
    with pytest.raises(ValueError, match=message):
        masked_linear(**(good | changed))
