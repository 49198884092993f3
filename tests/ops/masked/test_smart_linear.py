import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smart_kernels.ops.masked.linear import masked_linear
from smart_kernels.ops.masked.smart_linear import smart_linear
from smart_kernels.reference.common.soft_mask import soft_mask
from smart_kernels.shapes.tiles import expand, grid, reduce_sum
from tests.util import assert_close

from .test_linear import check, formula, gradients

SHAPES = [  # M, N, K, tile, group
    pytest.param(7, 20, 33, (1, 1), (1, 4), id="n-of-m"),
    pytest.param(17, 40, 72, (8, 4), None, id="many-tiles-in-a-block"),
    pytest.param(33, 32, 48, (16, 16), None, id="tile-is-a-block"),
    pytest.param(9, 50, 90, (24, 40), (2, 1), id="no-power-of-two"),
    pytest.param(4, 300, 140, (256, 128), (1, 2), id="tile-over-blocks"),
]
NAMES = ("x", "weight", "scores", "threshold", "bias")


def make_inputs(M, N, K, tile, group, dtype=torch.float32, device="cpu"):
    """x, weight, scores, threshold, bias that want gradients, and dy."""
    x, weight, bias, dy = (torch.randn(s).to(device, dtype) for s in ((M, K), (N, K), (N,), (M, N)))
    scores = torch.randn(grid((N, K), tile), device=device, dtype=torch.promote_types(dtype, torch.float32))
    threshold = 0.3 * torch.randn(grid(scores.shape, group) if group else (), dtype=torch.float64, device=device)
    return [t.requires_grad_() for t in (x, weight, scores, threshold, bias)], dy


def by_formula(x, weight, scores, threshold, bias, tile, group, temperature, eps=0.0):
    if group is not None:
        threshold = expand(threshold, group, scores.shape)
    return formula(x, weight, torch.sigmoid((scores - threshold) / temperature), bias, tile, eps)


def fused(tile, group, temperature=0.5, **settings):
    def run(x, weight, scores, threshold, bias=None):
        return smart_linear(x, weight, scores, threshold, temperature, bias, tile=tile, group=group, **settings)

    return run


@pytest.mark.parametrize("M, N, K, tile, group", SHAPES)
def test_matches_the_formula(M, N, K, tile, group, dtype, device):
    inputs, dy = make_inputs(M, N, K, tile, group, dtype, device)
    check(fused(tile, group), lambda *t: by_formula(*t, tile, group, 0.5), inputs, dy, dtype, NAMES)


@pytest.mark.parametrize("M, N, K, tile, group", SHAPES)
def test_matches_the_truncated_formula(M, N, K, tile, group, device):
    inputs, dy = make_inputs(M, N, K, tile, group, device=device)
    run, exact = fused(tile, group, eps=0.4), lambda *t: by_formula(*t, tile, group, 0.5, 0.4)
    check(run, exact, inputs, dy, torch.float32, NAMES)


@given(st.data())
def test_any_shape_tile_and_group(data):
    M, N, K = (data.draw(st.integers(1, n)) for n in (18, 30, 30))
    tile = tuple(data.draw(st.sampled_from((1, 2, 8, 12, 16, 24, 64))) for _ in "nk")
    group = data.draw(st.none() | st.tuples(st.integers(1, 5), st.integers(1, 5)))
    temperature = data.draw(st.sampled_from((1.0, 0.5)))
    inputs, _ = make_inputs(M, N, K, tile, group)
    # positive: a sum over one large tile does not cancel; small scores: nor does 1 - mask
    inputs[:3] = [torch.rand_like(t).requires_grad_() for t in inputs[:3]]
    dy, exact = torch.rand(N, M).T, lambda *t: by_formula(*t, tile, group, temperature)
    check(fused(tile, group, temperature), exact, inputs, dy, torch.float32, NAMES)


@pytest.mark.parametrize("M, N, K, tile, group", SHAPES)
def test_dead_grad_reaches_dead_tiles(M, N, K, tile, group, device):
    (x, weight, scores, threshold, _), dy = make_inputs(M, N, K, tile, group, device=device)
    _, _, dweight, dscores, dthreshold = gradients(
        fused(tile, group, eps=0.5, dead_grad=True), (x, weight, scores, threshold), dy
    )
    mask = soft_mask(scores, expand(threshold, group, scores.shape) if group else threshold, 0.5).detach().double()
    dmask = reduce_sum(dy.double().T @ x.detach().double() * weight.detach().double(), tile)
    want = 2 * mask * (1 - mask) * dmask
    assert_close("dscores", dscores, want, torch.float32)
    assert_close("dthreshold", dthreshold, -reduce_sum(want, group) if group else -want.sum(), torch.float32)
    assert (dweight[expand(mask <= 0.5, tile, weight.shape)] == 0).all()


def budget(scores, keep, temperature):
    """A threshold with sum(mask) = keep over all scores, differentiable with the exact Jacobian."""
    flat = torch.cat([s.flatten() for s in scores]).double()
    low, high = flat.detach().min() - 5, flat.detach().max() + 5
    for _ in range(80):
        middle = (low + high) / 2
        too_many = torch.sigmoid((flat.detach() - middle) / temperature).sum() > keep
        low, high = (middle, high) if too_many else (low, middle)
    f = torch.sigmoid((flat.detach() - low) / temperature)
    v = f * (1 - f)
    return low + (v / v.sum() * (flat - flat.detach())).sum()


@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_two_layers_share_a_budget_as_with_the_stored_mask(eps, device):
    layers = [make_inputs(6, 32, 48, (16, 16), None, device=device)[0], make_inputs(6, 20, 32, (5, 16), None)[0]]
    dy = torch.randn(6, 20, device=device)

    def through(soft):
        weights = [layer[1].to(device) for layer in layers]
        scores = [layer[2].detach().to(device).requires_grad_() for layer in layers]
        threshold, x = budget(scores, 6, 0.3), layers[0][0].detach()
        for weight, s, tile in zip(weights, scores, ((16, 16), (5, 16)), strict=True):
            if soft:
                x = smart_linear(x, weight, s, threshold, 0.3, tile=tile, eps=eps)
            else:
                x = masked_linear(x, weight, soft_mask(s, threshold, 0.3), tile=tile, eps=eps)
        return torch.autograd.grad(x, scores, dy)

    for name, a, b in zip(("first", "second"), through(True), through(False), strict=True):
        assert_close(name, a, b, torch.float32)


def test_infinite_scores_are_pinned_and_nan_stays_visible(device):
    (x, weight, scores, threshold, bias), dy = make_inputs(5, 32, 64, (16, 16), (1, 4), device=device)
    scores, threshold = scores.detach().clone(), threshold.detach().clone()
    scores[0] = torch.tensor([torch.inf, -torch.inf, 0.1, torch.inf])
    for extreme, rest in ((torch.inf, 0.0), (-torch.inf, 1.0)):
        threshold[0] = extreme
        inputs = (x, weight, scores.requires_grad_(), threshold.requires_grad_(), bias)
        mask = soft_mask(scores, threshold, 0.5).detach()
        assert mask[0].tolist() == [1, 0, rest, 1]
        y, _, _, dscores, dthreshold, _ = gradients(fused((16, 16), (1, 4)), inputs, dy)
        assert_close("y", y, masked_linear(x, weight, mask, bias, tile=(16, 16)), torch.float32)
        assert (dscores[0] == 0).all() and (dthreshold[0] == 0).all() and dscores[1].isfinite().all()
        threshold = threshold.detach()
    threshold[0] = torch.nan
    y, *_ = gradients(fused((16, 16), (1, 4)), (x, weight, scores, threshold.requires_grad_(), bias), dy)
    assert y[:, :16].isnan().all() and not y[:, 16:].isnan().any()


def test_small_temperature_keeps_the_digits_of_the_threshold(device):
    (x, weight, scores, _, bias), _ = make_inputs(5, 32, 64, (16, 16), None, device=device)
    scores = 100 + torch.arange(8, dtype=torch.float32, device=device).view(2, 4) * 1e-3
    threshold = torch.tensor(100.0031234, dtype=torch.float64, device=device)
    mask = torch.sigmoid((scores.double() - threshold) / 1e-3)
    y = smart_linear(x, weight, scores, threshold, torch.tensor(1e-3), bias, tile=(16, 16))
    want = formula(*(t.detach().double() for t in (x, weight, mask, bias)), (16, 16))
    assert_close("y", y, want, torch.float32)


def test_gradcheck(device):
    inputs, _ = make_inputs(3, 10, 12, (4, 5), (2, 2), torch.float64, device)
    assert torch.autograd.gradcheck(fused((4, 5), (2, 2)), inputs)


@pytest.mark.parametrize("wanted", [("scores",), ("threshold",), ("x",), ("weight", "threshold")], ids="-".join)
def test_only_wanted_gradients(wanted, device):
    inputs, dy = make_inputs(9, 24, 40, (8, 16), None, device=device)
    inputs = [t.detach().requires_grad_(name in wanted) for name, t in zip(NAMES, inputs, strict=True)]
    check(fused((8, 16), None), lambda *t: by_formula(*t, (8, 16), None, 0.5), inputs, dy, torch.float32, NAMES)


@pytest.mark.parametrize("tile", [(8, 4), (128, 96)])
def test_two_runs_are_bit_equal(tile, device):
    inputs, dy = make_inputs(5, 200, 130, tile, None, device=device)
    for a, b in zip(gradients(fused(tile, None), inputs, dy), gradients(fused(tile, None), inputs, dy), strict=True):
        assert torch.equal(a, b)


def test_opcheck(device):
    (x, weight, scores, threshold, bias), dy = make_inputs(5, 24, 40, (8, 16), (2, 2), device=device)
    temperature = torch.tensor(0.5, dtype=torch.float64, device=device)
    ops, settings = torch.ops.smart_kernels, (8, 16, 2, 2, 0.0, False)
    torch.library.opcheck(ops.smart_linear.default, (x, weight, scores, threshold, temperature, bias, *settings))
    dense = [t.detach() for t in (dy, x, weight, scores, threshold, temperature)]
    torch.library.opcheck(ops.smart_linear_backward.default, (*dense, *settings, True, True, None))


def test_compiles(device):
    inputs, dy = make_inputs(5, 24, 40, (8, 16), None, device=device)
    run = fused((8, 16), None, eps=0.5)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for a, b in zip(gradients(compiled, inputs, dy), gradients(run, inputs, dy), strict=True):
        assert torch.equal(a, b)


def test_autocast_casts_only_x(device):
    inputs, dy = make_inputs(9, 24, 40, (8, 16), None, device=device)
    with torch.autocast(device, torch.bfloat16):
        y = fused((8, 16), None)(*inputs)
    y.backward(dy.bfloat16())
    assert y.dtype == torch.bfloat16
    assert [t.grad.dtype for t in inputs] == [t.dtype for t in inputs]


@pytest.mark.parametrize(
    "changed, message",
    [
        (
            {"scores": torch.ones(3, 5)},
            r"scores must be \(3, 3\) for weight \(24, 40\) and tile \(8, 16\), got \(3, 5\)",
        ),
        ({"threshold": torch.ones(2)}, r"threshold must be one value where group is None, got \(2,\)"),
        ({"group": (2, 3)}, r"threshold must be \(2, 1\) for scores \(3, 3\) and group \(2, 3\), got \(\)"),
        ({"group": (0, 3)}, r"group must be two positive sizes, got \(0, 3\)"),
        ({"temperature": 0.0}, r"temperature must be positive, got 0.0"),
        ({"temperature": torch.ones(2)}, r"temperature must be a float or a 0-d tensor, got \(2,\)"),
        ({"threshold": torch.ones((), device="meta")}, r"threshold must be on the device of scores, cpu, got meta"),
    ],
)
def test_rejects_what_does_not_fit(changed, message):
    (x, weight, scores, threshold, bias), _ = make_inputs(5, 24, 40, (8, 16), None)
    good = {"x": x, "weight": weight, "scores": scores, "threshold": threshold, "temperature": 0.5, "bias": bias}
    with pytest.raises(ValueError, match=message):
        smart_linear(**(good | {"tile": (8, 16)} | changed))
