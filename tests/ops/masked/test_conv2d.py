import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from smart_kernels.kernels.common.conv_matmul import CONFIGS
from smart_kernels.ops import masked_conv2d, soft_topk
from smart_kernels.ops.common import conv_grad as _conv
from smart_kernels.ops.common.plan import forget
from smart_kernels.patterns import Block, WeightShape
from smart_kernels.reference.common.soft_mask import soft_mask
from smart_kernels.shapes.conv import Conv
from tests.conftest import INTERPRETED

from .test_linear import NAMES, check, gradients

SAME = Conv((3, 3), (1, 1), (1, 1))
PAIR_OF_TAPS = Conv((1, 2), (1, 1), (0, 1))
CASES = [  # images, C, H, W, N, geometry, tile
    pytest.param(2, 32, 5, 4, 16, SAME, (16, 16), id="3x3"),
    pytest.param(1, 32, 6, 6, 32, Conv((3, 3)), (32, 32), id="interior"),
    pytest.param(1, 40, 7, 6, 24, Conv((3, 3), (2, 2), (1, 1)), (24, 40), id="stride-no-power-of-two"),
    pytest.param(1, 20, 7, 8, 30, Conv((3, 2), (2, 3), (1, 0), (1, 2)), (16, 16), id="ragged"),
    pytest.param(1, 20, 5, 4, 30, Conv((1, 1), (2, 1)), (16, 16), id="pointwise-stride"),
    pytest.param(1, 80, 4, 4, 20, Conv((2, 1), (1, 1), (1, 0)), (16, 48), id="several-blocks-ragged"),
    pytest.param(1, 72, 3, 3, 136, PAIR_OF_TAPS, (136, 72), id="several-parts"),
    pytest.param(1, 90, 3, 3, 20, Conv((1, 2)), (200, 100), id="tile-over-the-matrix"),
    pytest.param(1, 16, 2, 3, 16, Conv((5, 7), (2, 2), (3, 3)), (16, 16), id="more-taps-than-bits"),
    pytest.param(1, 20, 4, 4, 24, SAME, (8, 4), id="many-tiles-in-a-block"),
    pytest.param(1, 5, 4, 4, 3, SAME, (1, 1), id="element"),
]


def names(conv):
    return dict(zip(("stride", "padding", "dilation"), conv[1:], strict=True))


def pattern_of(tile, taps="one"):
    return Block(*tile, taps)


def make(B, C, H, W, N, conv, tile, dtype=torch.float32, device="cpu", dead=0.4):
    """x, weight, mask, bias that want gradients, and dy."""
    shape = pattern_of(tile).scores_shape(WeightShape(N, conv.taps, C))
    mask = torch.rand(shape) * 0.9 + 0.1
    mask[torch.rand(shape) < dead] = 0
    mask[0, 0] = 0.7
    sizes = (B, C, H, W), (N, C, *conv.kernel), (N,), (B, N, *conv.output_size(H, W))
    x, weight, bias, dy = (torch.randn(s).to(device, dtype) for s in sizes)
    mask = mask.to(device, torch.float64 if dtype == torch.float64 else torch.float32)
    return [t.requires_grad_() for t in (x, weight, mask, bias)], dy


def per_weight(values, weight, tile):
    """(N, C, kh, kw) from values per tile."""
    N, C, kh, kw = weight.shape
    return pattern_of(tile).expand(values, WeightShape(N, kh * kw, C)).transpose(1, 2).reshape(weight.shape)


def formula(x, weight, mask, bias, tile, conv, eps=0.0):
    full = per_weight(mask, weight, tile)
    return F.conv2d(x, torch.where(full <= eps, 0, weight * full), bias, *conv[1:])


def both(tile, conv, eps=0.0, **flags):
    return (
        lambda *t: masked_conv2d(*t, tile=tile, **names(conv), eps=eps, **flags),
        lambda *t: formula(*t, tile, conv, eps),
    )


@pytest.mark.parametrize("B, C, H, W, N, conv, tile", [*CASES[:1], CASES[6], *CASES[9:]])
def test_matches_the_formula(B, C, H, W, N, conv, tile, dtype, device):
    inputs, dy = make(B, C, H, W, N, conv, tile, dtype, device)
    check(*both(tile, conv), inputs, dy, dtype)


@pytest.mark.parametrize("B, C, H, W, N, conv, tile", CASES)
def test_matches_the_truncated_formula(B, C, H, W, N, conv, tile, device):
    inputs, dy = make(B, C, H, W, N, conv, tile, device=device)
    check(*both(tile, conv, 0.5), inputs, dy, torch.float32)


PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=settings().max_examples // 5)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 6), st.integers(1, 6), st.integers(1, 40)),
    st.tuples(PAIR, PAIR, st.tuples(st.integers(0, 3), st.integers(0, 3)), PAIR),
    st.tuples(*[st.sampled_from((1, 4, 8, 12, 16, 24, 32, 64))] * 2),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([0.0, 0.5]),
)
def test_any_geometry_and_tile(sizes, pairs, tile, dead, eps):
    conv = Conv(*pairs)
    assume(min(conv.output_size(*sizes[2:4])) >= 1)
    inputs, dy = make(*sizes, conv, tile, dead=dead)
    # positive: a sum over one large tile does not cancel
    inputs = [t.detach().abs().requires_grad_() for t in inputs]
    check(*both(tile, conv, eps), inputs, dy.abs(), torch.float32)


def test_gradient_in_parts(monkeypatch, device):
    monkeypatch.setattr(_conv, "CHUNK", 128)
    forget()
    inputs, dy = make(2, 16, 10, 10, 16, SAME, (16, 16), device=device)
    check(*both((16, 16), SAME), inputs, dy, torch.float32)


@pytest.mark.parametrize("tile", [(8, 4), (16, 16), (24, 40)])
def test_dead_tiles_are_exactly_zero_and_never_read(tile, device):
    (x, weight, mask, bias), dy = make(1, 50, 3, 4, 26, PAIR_OF_TAPS, tile, device=device)
    dead = per_weight(mask.detach(), weight, tile) <= 0.5
    poisoned = weight.detach().masked_fill(dead, torch.nan).requires_grad_()
    run, _ = both(tile, PAIR_OF_TAPS, 0.5)
    clean = gradients(run, (x, weight, mask, bias), dy)
    for a, b in zip(gradients(run, (x, poisoned, mask, bias), dy), clean, strict=True):
        assert torch.equal(a, b)
    assert (clean[2][dead] == 0).all() and (clean[3][mask <= 0.5] == 0).all()


@pytest.mark.parametrize("tile", [(8, 4), (16, 16), (24, 40)])
def test_dead_grad_reaches_dead_tiles(tile, device):
    inputs, dy = make(1, 50, 3, 4, 30, PAIR_OF_TAPS, tile, device=device)
    y, dx, dweight, dmask, dbias = gradients(both(tile, PAIR_OF_TAPS, 0.5, dead_grad=True)[0], inputs, dy)
    others = gradients(both(tile, PAIR_OF_TAPS, 0.5)[0], inputs, dy)
    for a, b in zip((y, dx, dweight, dbias), (*others[:3], others[4]), strict=True):
        assert torch.equal(a, b)
    x, weight, mask, bias = (t.detach().double() for t in inputs)
    exact = gradients(both(tile, PAIR_OF_TAPS, -1.0)[1], [x, weight, mask.requires_grad_(), bias], dy.double())
    torch.testing.assert_close(dmask.double(), exact[1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("wanted", [("x",), ("weight",), ("mask",), ("bias",), ("x", "mask")], ids="-".join)
def test_only_wanted_gradients(wanted, device):
    inputs, dy = make(1, 16, 4, 4, 32, SAME, (16, 16), device=device)
    inputs = [t.detach().requires_grad_(name in wanted) for name, t in zip(NAMES, inputs, strict=True)]
    check(*both((16, 16), SAME), inputs, dy, torch.float32)


@pytest.mark.parametrize("taps", ["one", "all"])
def test_a_soft_mask_takes_gradients_on_to_its_scores(taps, device):
    tile, eps, temperature = (16, 16), 0.2, 0.3
    (x, weight, _, bias), dy = make(1, 32, 4, 4, 32, SAME, tile, device=device)
    pattern, shape = pattern_of(tile, taps), WeightShape(32, 9, 32)
    scores = torch.randn(pattern.scores_shape(shape), device=device, requires_grad=True)

    def run(product):
        def layer(x, weight, scores, bias):
            _, threshold = soft_topk(scores.flatten(), scores.numel() / 2, temperature)
            mask = soft_mask(scores, threshold, temperature)
            return product(x, weight, pattern.tile_values(mask, shape), bias)

        return layer

    ours, definition = both(tile, SAME, eps)
    check(run(ours), run(definition), (x, weight, scores, bias), dy, torch.float32, ("x", "weight", "scores", "bias"))


@pytest.mark.skipif(not INTERPRETED, reason="counts what the interpreter executes")
@pytest.mark.parametrize("wanted", [(), ("x",), ("weight",), ("mask",), ("weight", "mask")], ids=lambda w: "-".join(w))
@pytest.mark.parametrize("kept, stride", [(0, 1), (1, 1), (5, 2)])
def test_work_follows_live_blocks(kept, stride, wanted, monkeypatch):
    from triton.runtime.interpreter import InterpreterBuilder

    dots, dot = [], InterpreterBuilder.create_dot
    monkeypatch.setattr(InterpreterBuilder, "create_dot", lambda *args: dots.append(1) or dot(*args))
    conv = Conv((3, 3), (stride, stride), (1, 1))
    (x, weight, mask, bias), dy = make(1, 32, 8, 8, 32, conv, (16, 16))
    mask = torch.zeros_like(mask).flatten().index_fill_(0, torch.randperm(36)[:kept], 0.5).view(2, 18)
    for name, t in zip(NAMES, (x, weight, mask, bias), strict=True):
        t.requires_grad_(name in wanted or (name == "bias"))
    y = masked_conv2d(x, weight, mask, bias, tile=(16, 16), **names(conv))
    live = kept * (64 // stride**2 // CONFIGS[0].kwargs["BLOCK_M"])
    assert len(dots) == live
    y.backward(dy)
    assert len(dots) - live == live * (("x" in wanted) + bool({"weight", "mask"}.intersection(wanted)))


@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_gradcheck(eps, device):
    conv = Conv((3, 2), (2, 1), (1, 1), (1, 2))
    (x, weight, mask, bias), _ = make(1, 6, 4, 4, 4, conv, (4, 5), torch.float64, device)
    mask = mask.detach().clamp_min(0.1)
    mask[(mask - eps).abs() < 1e-3] = 0.9  # at eps the mask is not differentiable
    run, _ = both((4, 5), conv, eps)
    assert torch.autograd.gradcheck(run, (x, weight, mask.requires_grad_(), bias))


@pytest.mark.parametrize("tile", [(8, 4), (16, 64)])
def test_two_runs_are_bit_equal(tile, device):
    inputs, dy = make(1, 70, 3, 4, 20, PAIR_OF_TAPS, tile, device=device)
    run, _ = both(tile, PAIR_OF_TAPS)
    for a, b in zip(gradients(run, inputs, dy), gradients(run, inputs, dy), strict=True):
        assert torch.equal(a, b)


def test_autocast_casts_only_x_and_results_are_channels_last(device):
    (x, weight, mask, bias), dy = make(2, 16, 5, 5, 16, SAME, (16, 16), device=device)
    with torch.autocast(device, torch.bfloat16):
        y = masked_conv2d(x, weight, mask, bias, tile=(16, 16), padding=1)
    y.backward(dy.bfloat16())
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    assert {t.grad.dtype for t in (x, weight, mask, bias)} == {torch.float32}


def test_any_memory_format_and_no_image(device):
    inputs, dy = make(2, 16, 3, 4, 20, PAIR_OF_TAPS, (16, 16), device=device)
    last = [t.detach().to(memory_format=torch.channels_last) if t.dim() == 4 else t for t in inputs]
    run, _ = both((16, 16), PAIR_OF_TAPS)
    for a, b in zip(gradients(run, inputs, dy), gradients(run, [t.requires_grad_() for t in last], dy), strict=True):
        assert torch.equal(a, b)
    assert run(inputs[0][:0], *inputs[1:]).shape == (0, 20, 3, 5)


def test_opcheck(device):
    (x, weight, mask, bias), dy = make(1, 16, 3, 3, 16, PAIR_OF_TAPS, (16, 16), device=device)
    x, dy = (t.detach().movedim(1, 3).contiguous().requires_grad_() for t in (x, dy))
    matrix = weight.detach().permute(0, 2, 3, 1).flatten(1).contiguous().requires_grad_()
    ops, rest = torch.ops.smart_kernels, (PAIR_OF_TAPS.numbers, 16, 16, 0.0)
    torch.library.opcheck(ops.masked_conv2d.default, (x, matrix, mask, bias, *rest, False))
    dense = [t.detach() for t in (dy, x, matrix, mask)]
    torch.library.opcheck(ops.masked_conv2d_backward.default, (*dense, *rest, False, True, True))
    torch.library.opcheck(
        ops.masked_conv2d_dx.default, (dense[0], *dense[2:], PAIR_OF_TAPS.numbers, 3, 3, 16, 16, 16, 0.0)
    )


def test_compiles(device):
    inputs, dy = make(1, 20, 3, 3, 16, PAIR_OF_TAPS, (16, 16), device=device)
    run, _ = both((16, 16), PAIR_OF_TAPS, 0.5)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for a, b in zip(gradients(compiled, inputs, dy), gradients(run, inputs, dy), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"x": torch.ones(1, 7, 5, 5)}, r"x must be \(B, 16, H, W\) for weight \(32, 16, 3, 3\), got \(1, 7, 5, 5\)"),
        ({"weight": torch.ones(32, 16)}, r"weight must be \(N, C, kh, kw\)"),
        ({"mask": torch.ones(2, 1)}, r"mask must be \(2, 9\) for weight .* and tile \(16, 16\), got \(2, 1\)"),
        ({"bias": torch.ones(3)}, r"bias must be \(32,\)"),
        ({"tile": (0, 16)}, r"tile must be two positive sizes, got \(0, 16\)"),
        ({"eps": 1.0}, r"eps must be in \[0, 1\), got 1.0"),
        ({"stride": 0}, "must be positive pairs"),
        ({"x": torch.ones(1, 16, 2, 2)}, "the output must have a pixel"),
        ({"mask": torch.ones(2, 9, device="meta")}, r"mask must be on the device of x, cpu, got meta"),
    ],
)
def test_rejects_what_does_not_fit(changed, message):
    (x, weight, mask, bias), _ = make(1, 16, 5, 5, 32, Conv((3, 3)), (16, 16))
    good = {"x": x, "weight": weight, "mask": mask, "bias": bias, "tile": (16, 16)}
    with pytest.raises(ValueError, match=message):
        masked_conv2d(**(good | changed))
