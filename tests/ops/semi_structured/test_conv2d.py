import pytest
import torch
import torch.nn.functional as F
import triton
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from smart_kernels.nn import SparseConv2d
from smart_kernels.ops.semi_structured.conv2d import _conv, semi_structured_conv2d
from smart_kernels.patterns import NM
from smart_kernels.reference.common.epilogue import ACTIVATIONS, finish
from smart_kernels.reference.common.nm import compress, unpack
from smart_kernels.shapes.conv import Conv
from tests.util import assert_close

NAMES = ("y", "dx", "dvalues", "dbias")
SAME = Conv((3, 3), (1, 1), (1, 1))
CASES = [  # images, C, H, W, N, geometry, n:m
    pytest.param(2, 32, 4, 3, 64, SAME, (2, 4), id="3x3"),
    pytest.param(1, 16, 11, 10, 64, Conv((3, 3)), (2, 4), id="interior-several-blocks"),
    pytest.param(1, 22, 7, 6, 70, Conv((3, 3), (2, 2), (1, 1)), (4, 8), id="stride-ragged"),
    pytest.param(1, 70, 5, 8, 33, Conv((3, 2), (2, 3), (1, 0), (1, 2)), (1, 4), id="dilated-several-blocks"),
    pytest.param(1, 8, 4, 4, 16, Conv((6, 6), (2, 2), (1, 1)), (2, 8), id="more-taps-than-bits"),
    pytest.param(2, 16, 4, 4, 8, Conv((1, 1), (2, 2), (1, 1)), (1, 2), id="padded-1x1"),
    pytest.param(1, 3, 6, 6, 5, SAME, (2, 4), id="small"),
]
PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))
SETTINGS = {"suppress_health_check": [HealthCheck.function_scoped_fixture]}
PATTERNS = [(2, 4), (1, 4), (2, 8), (4, 8), (1, 2), (3, 8), (7, 8), (3, 4)]


def names(conv, kept=(2, 4)):
    return {
        **conv.named,
        "n": kept[0],
        "m": kept[1],
    }


def make(B, C, H, W, N, conv, kept=(2, 4), dtype=torch.float32, device="cpu"):
    """x, values, indices, bias; n of every m channels kept at each tap."""
    (n, m), groups = kept, -(-C // kept[1])
    keep = (torch.rand(N, conv.taps, groups, m).argsort(-1) < n).flatten(2)
    keep[..., C:] = False
    weight = (torch.randn(keep.shape) * keep).to(device, dtype)
    values, indices = compress(weight.flatten(1), keep.flatten(1).to(device), n, m)
    x, bias = torch.randn(B, C, H, W).to(device, dtype), torch.randn(N).to(device, dtype)
    return x.requires_grad_(), values.requires_grad_(), indices, bias.requires_grad_()


def exact(x, values, indices, bias, dy, conv, kept):
    """y, dx, dvalues, dbias in float64, written apart from the op."""
    (n, m), C, length = kept, x.shape[1], values.shape[1]
    inputs = [t.detach().double().requires_grad_() for t in (x, values, bias)]
    places = unpack(indices, (m - 1).bit_length(), length).long()
    columns = torch.arange(length, device=x.device) // n * m + places
    one_hot = F.one_hot(columns, length // n * m).double()
    matrix = torch.einsum("nl,nlk->nk", inputs[1], one_hot).unflatten(1, (*conv.kernel, -1))[..., :C]
    y = F.conv2d(inputs[0], matrix.permute(0, 3, 1, 2), inputs[2], *conv[1:])
    return y, *torch.autograd.grad(y, inputs, dy.double())


def check(args, conv, kept, dtype):
    x, values, _, bias = args
    with torch.no_grad():
        y = semi_structured_conv2d(*args, **names(conv, kept))
    dy = torch.randn_like(y)
    grads = torch.autograd.grad(semi_structured_conv2d(*args, **names(conv, kept)), (x, values, bias), dy)
    for name, out, ref in zip(NAMES, (y, *grads), exact(*args, dy, conv, kept), strict=True):
        assert out.dtype == dtype
        assert_close(name, out, ref, dtype)


@pytest.mark.parametrize("B, C, H, W, N, conv, kept", CASES)
def test_matches_torch(B, C, H, W, N, conv, kept, device):
    check(make(B, C, H, W, N, conv, kept, device=device), conv, kept, torch.float32)


@pytest.mark.parametrize("C, kept", [(16, (2, 4)), (20, (4, 8))], ids=str)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_halves_match_torch(C, kept, half, device):
    check(make(1, C, 4, 4, 20, SAME, kept, half, device), SAME, kept, half)


@settings(**SETTINGS, max_examples=settings().max_examples // (10 if triton.knobs.runtime.interpret else 3))
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 20), st.integers(1, 7), st.integers(1, 7), st.integers(1, 20)),
    st.tuples(PAIR, PAIR, st.tuples(st.integers(0, 3), st.integers(0, 3)), PAIR),
    st.sampled_from(PATTERNS),
)
@example((1, 5, 6, 7, 9), ((3, 2), (3, 2), (2, 1), (2, 1)), (2, 4))
@example((2, 6, 7, 7, 9), ((2, 1), (1, 1), (0, 0), (1, 1)), (1, 4))
def test_any_geometry(device, sizes, pairs, kept):
    conv = Conv(*pairs)
    assume(min(conv.output_size(*sizes[2:4])) >= 1)
    check(make(*sizes, conv, kept, device=device), conv, kept, torch.float32)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_epilogue_fused_and_with_gradients(activation, device):
    conv, dtype = Conv((2, 1), (1, 1), (1, 0)), torch.float16
    args = make(1, 16, 4, 4, 32, conv, dtype=dtype, device=device)
    residual = torch.randn(1, 32, 5, 4, device=device, dtype=dtype).requires_grad_()
    options = {**names(conv), "activation": activation, "residual": residual}
    expected = finish(exact(*args, torch.zeros_like(residual), conv, (2, 4))[0], None, residual.double(), activation)
    with torch.no_grad():
        assert_close("fused", semi_structured_conv2d(*args, **options), expected, dtype)
    y = semi_structured_conv2d(*args, **options)
    assert_close("differentiable", y, expected, dtype)
    dy = torch.randn_like(y)
    grads = (torch.autograd.grad(out, residual, g)[0] for out, g in ((y, dy), (expected, dy.double())))
    assert_close("dresidual", *grads, torch.bfloat16)


def test_strides_and_autocast(device):
    x, values, indices, bias = make(2, 16, 5, 5, 16, SAME, device=device)
    strided = values.detach().T.contiguous().T.requires_grad_()
    images = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast(device, torch.bfloat16):
        y = semi_structured_conv2d(images, strided, indices, bias, **names(SAME))
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    dy = torch.randn_like(y)
    grads = torch.autograd.grad(y, (images, strided, bias), dy)
    for name, out, ref in zip(NAMES, (y, *grads), exact(x, values, indices, bias, dy, SAME, (2, 4)), strict=True):
        assert_close(name, out, ref, torch.bfloat16)
        assert name == "y" or out.dtype == torch.float32


def test_no_images(device):
    x, values, indices, bias = make(0, 16, 5, 5, 64, SAME, device=device)
    y = semi_structured_conv2d(x, values, indices, bias, **names(SAME))
    dx, dvalues, dbias = torch.autograd.grad(y.sum(), (x, values, bias))
    assert y.shape == (0, 64, 5, 5) and dx.shape == x.shape and not dvalues.any() and not dbias.any()


@pytest.mark.parametrize("pattern", [NM(2, 4), NM(4, 8)], ids=str)
def test_sparse_layer_trains_through_it(pattern, device):
    layer = SparseConv2d(12, 32, 3, pattern, pattern.sparsity, stride=2, padding=1, device=device)
    x = torch.randn(1, 12, 6, 6, device=device)
    y = layer(x)
    y.square().sum().backward()
    values, indices, bias = layer.format.values.detach(), layer.format.indices, layer.bias.detach()
    expected = exact(x, values, indices, bias, 2 * y.detach(), layer.conv, (pattern.n, pattern.m))
    assert_close("y", y, expected[0], torch.float32)
    assert_close("dvalues", layer.format.values.grad, expected[2], torch.float32)
    assert_close("dbias", layer._parameters["bias"].grad, expected[3], torch.float32)


@pytest.mark.parametrize("kept", [(2, 4), (4, 8)], ids=str)
def test_gradcheck(kept, device):
    conv = Conv((3, 2), (2, 1), (1, 1), (1, 2))
    x, values, indices, bias = make(1, 8, 4, 4, 4, conv, kept, torch.float64, device)

    def f(x, values, bias):
        return semi_structured_conv2d(x, values, indices, bias, **names(conv, kept), activation="gelu")

    assert torch.autograd.gradcheck(f, (x, values, bias))


@pytest.mark.skipif(triton.knobs.runtime.interpret, reason="traces, which the interpreter does not change")
def test_opcheck_and_compile(device):
    conv = Conv((3, 3), (2, 2), (1, 1))
    x, values, indices, bias = make(1, 16, 5, 5, 16, conv, device=device)
    images = x.detach().movedim(1, 3).contiguous().requires_grad_()
    opcheck(_conv, (images, values, indices, bias, None, conv.numbers, 2, 4, None))

    def loss(x, values, bias):
        return semi_structured_conv2d(x, values, indices, bias, **names(conv), activation="relu").sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    grads = [torch.autograd.grad(f(x, values, bias), (x, values, bias)) for f in (loss, compiled)]
    for name, out, ref in zip(NAMES[1:], *grads, strict=True):
        assert_close(name, out, ref, torch.float32)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(16, 5, 5)}, r"x must be \(B, C, H, W\)"),
        ({"x": torch.zeros(1, 32, 5, 5)}, r"values must be \(N, 144\) for one group of 32 channels"),
        ({"indices": torch.zeros(32, 8)}, r"indices must be \(32, 18\) uint8"),
        ({"bias": torch.zeros(40)}, r"bias must be \(32,\)"),
        ({"x": torch.zeros(1, 16, 5, 5).half()}, "must share one of"),
        ({"x": torch.zeros(1, 16, 5, 5, device="meta")}, "must be on the device of x"),
        ({"padding": 0, "dilation": 3}, "the output must have a pixel"),
        ({"stride": 0}, "must be positive pairs"),
        ({"residual": torch.zeros(1, 32, 3, 3)}, "residual must have the shape of the result"),
        ({"activation": "tanh"}, "activation must be None or one of"),
        ({"m": 16}, "n:m must keep"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_rejects(change, message):
    arrays = dict(zip(("x", "values", "indices", "bias"), make(1, 16, 5, 5, 32, SAME), strict=True))
    with pytest.raises(ValueError, match=message):
        semi_structured_conv2d(**arrays | {"kernel_size": 3, "padding": 1} | change)
