"""SparseLinear and SparseConv2d: drop-in, trainable, sparse from the start or from a dense layer."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smart_kernels import NM, Block, Channel, SparseConv2d, SparseLinear
from smart_kernels.ops.common import TRITON_DEVICES
from smart_kernels.reference.common import finish
from tests.util import assert_close

PATTERNS = [
    pytest.param(Block(8, 4), 0.3, id="block"),
    pytest.param(Block(8, 4, "all"), 0.3, id="block-all"),
    pytest.param(Channel(), 0.5, id="channel"),
    pytest.param(NM(2, 4), 0.5, id="nm"),
]


def linear(pattern, density, **kwargs):
    return SparseLinear(20, 20, pattern, density, **kwargs)


def conv(pattern, density, **kwargs):
    return SparseConv2d(10, 20, 3, pattern, density, stride=2, padding=1, **kwargs)


def density_of(layer):
    return (layer.weight != 0).float().mean().item()


@pytest.mark.parametrize("pattern, density", PATTERNS)
def test_linear_is_its_dense_weight(pattern, density):
    layer, x = linear(pattern, density), torch.randn(2, 3, 20)
    assert layer.weight.shape == (20, 20) and layer.bias.shape == (20,)
    assert 0 < density_of(layer) <= density + 0.05
    expected = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    assert_close("y", layer(x), expected, x.dtype)
    with torch.no_grad():
        assert_close("y", layer(x), expected, x.dtype)
    assert_close("y", layer.to_dense()(x), expected, x.dtype)


@pytest.mark.parametrize("pattern, density", PATTERNS)
@pytest.mark.parametrize("size", [1, 3, (3, 2)], ids=["1x1", "3x3", "3x2"])
@pytest.mark.parametrize(
    "settings", [{}, {"stride": 2}, {"padding": "same", "dilation": 2}], ids=["", "stride", "same"]
)
def test_conv_is_its_dense_weight(pattern, density, size, settings):
    if size == (3, 2) and "padding" in settings:
        settings = {"padding": (1, 0), "dilation": (1, 2)}
    layer, x = SparseConv2d(10, 20, size, pattern, density, **settings), torch.randn(2, 10, 7, 8)
    twin = nn.Conv2d(10, 20, size, **settings)
    assert layer.weight.shape == twin.weight.shape
    twin.weight.data.copy_(layer.weight.detach())
    twin.bias.data.copy_(layer.bias.detach())
    expected = twin.double()(x.double())
    assert_close("y", layer(x), expected, x.dtype)
    assert_close("y", layer.to_dense()(x), expected, x.dtype)


@pytest.mark.parametrize("pattern, density", PATTERNS)
@pytest.mark.parametrize("make, shape", [(linear, (3, 20)), (conv, (2, 10, 4, 5))], ids=["linear", "conv"])
def test_gradients_are_exact(pattern, density, make, shape):
    layer = make(pattern, density, dtype=torch.float64)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    names, values = zip(*layer.named_parameters(), strict=True)
    assert set(names) == {"bias", "format.values"}

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values))


@pytest.mark.parametrize("pattern, density", PATTERNS)
@pytest.mark.parametrize("make, shape", [(linear, (3, 20)), (conv, (2, 10, 4, 5))], ids=["linear", "conv"])
def test_training_keeps_the_pattern(pattern, density, make, shape):
    layer = make(pattern, density)
    live, before = layer.weight != 0, layer.weight.detach().clone()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.randn(shape)).square().sum().backward()
        optimizer.step()
    assert not (layer.weight != 0)[~live].any()
    assert not torch.equal(layer.weight, before)


def test_dead_channels_stay_exactly_zero():
    layer = linear(Channel(), 0.5)
    dead = (layer.weight == 0).all(1)
    assert dead.any()
    layer(torch.randn(3, 20)).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=1.0).step()
    assert not layer.bias[dead].any() and not layer(torch.randn(3, 20))[:, dead].any()


@pytest.mark.parametrize("pattern, density", PATTERNS)
def test_from_dense_keeps_the_largest(pattern, density):
    dense = nn.Linear(20, 20)
    layer = SparseLinear.from_dense(dense, pattern, 1 - density)
    live = layer.weight != 0
    assert torch.equal(layer.weight[live], dense.weight[live])
    assert live.sum() <= density * live.numel() + 1e-6
    if isinstance(pattern, NM):
        assert (live.reshape(-1, 4).sum(1) == 2).all()
    if isinstance(pattern, Channel):
        means = dense.weight.abs().mean(1)
        assert means[live.any(1)].min() >= means[~live.any(1)].max()


def test_from_dense_conv_keeps_geometry_and_bias():
    dense = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False).eval()
    layer = SparseConv2d.from_dense(dense, Block(8, 8), 0.5)
    x = torch.randn(2, 8, 6, 6)
    assert layer.bias is None and not layer.training
    assert layer(x).shape == dense(x).shape
    assert density_of(layer) == pytest.approx(0.5)


def test_a_full_density_is_the_dense_layer():
    dense, x = nn.Linear(20, 20), torch.randn(3, 20)
    assert_close("y", SparseLinear.from_dense(dense, Block(8, 4), 0.0)(x), dense(x), x.dtype)


def test_at_least_one_tile_is_kept():
    assert (SparseLinear(64, 64, Block(32, 32), 0.01).weight != 0).sum() == 32 * 32


def test_initialised_for_the_inputs_that_are_left():
    torch.manual_seed(0)
    layer = SparseLinear(256, 256, Block(32, 32), 0.25)
    bound = (0.25 * 256) ** -0.5
    assert 0.95 * bound < layer.format.values.abs().max() <= bound
    assert layer.bias.abs().max() <= bound


@pytest.mark.parametrize("make", [linear, conv])
def test_state_dict_and_deepcopy(make):
    torch.manual_seed(1)
    layer = make(Block(8, 4), 0.3)
    twin = copy.deepcopy(layer)
    twin.format.values.data.zero_()
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin.weight, layer.weight)
    assert copy.deepcopy(layer).bfloat16().weight.dtype == torch.bfloat16


def test_repr_names_the_format():
    text = repr(linear(Block(8, 4), 0.3))
    assert "in_features=20, out_features=20, bias=True" in text and "tiles of 8x4" in text


def test_attention_reads_the_sparse_weight():
    attention = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    x = torch.randn(2, 5, 16)
    attention.out_proj = SparseLinear.from_dense(attention.out_proj, Block(4, 4), 0.5)
    with torch.no_grad():
        masked, _ = attention(x, x, x)
        attention.out_proj = attention.out_proj.to_dense()
        expected, _ = attention(x, x, x)
    assert_close("y", masked, expected, x.dtype)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SparseLinear(8, 8, Block(4, 4), 0.0), "density must be in"),
        (lambda: SparseLinear(8, 8, NM(2, 4), 0.3), "nm:2:4 implies a density of 0.5"),
        (lambda: SparseLinear.from_dense(nn.Linear(8, 8), Block(8, 8), 0.5), "must pay for the best tile"),
        (lambda: SparseLinear.from_dense(nn.Linear(8, 8), Block(4, 4), 1.5), r"sparsity must be in \[0, 1\), got 1.5"),
        (lambda: SparseConv2d(8, 8, 3, Block(4, 4), 0.5, groups=2), "groups=1"),
        (lambda: SparseConv2d(8, 8, 3, Block(4, 4), 0.5, padding=1, padding_mode="reflect"), "zero padding"),
        (lambda: SparseConv2d(8, 8, 2, Block(4, 4), 0.5, padding="same"), "the same on both sides"),
    ],
)
def test_rejects(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("pattern, density", PATTERNS)
def test_an_input_of_another_width_is_refused(pattern, density):
    """Blocks end beyond the edge, so a product with a few columns more or less would come out, and be wrong."""
    layer = linear(pattern, density)
    for width in (19, 21, 40):
        with pytest.raises(ValueError, match=rf"x must be \(\.\.\., 20\), got \(3, {width}\)"):
            layer(torch.randn(3, width))
    with pytest.raises(ValueError, match=r"x must be \(\.\.\., 20\), got \(\)"):
        layer(torch.tensor(1.0))
    layer = conv(pattern, density)
    for shape in ((2, 9, 4, 5), (2, 11, 4, 5), (10, 4)):
        with pytest.raises(ValueError, match=r"x must be \(B, 10, H, W\) or without B, got"):
            layer(torch.randn(shape))


FINISHED = {
    "linear": (partial(SparseLinear, 32, 48, Block(16, 16), 0.5), (3, 32)),
    "linear nm": (partial(SparseLinear, 32, 48, NM(2, 4), 0.5), (2, 3, 32)),
    "1x1": (partial(SparseConv2d, 32, 48, 1, Block(16, 16), 0.5, stride=2), (1, 32, 5, 4)),
    "3x3": (partial(SparseConv2d, 16, 32, 3, Block(16, 16), 0.5, padding=1), (1, 16, 4, 3)),
    "3x3 nm": (partial(SparseConv2d, 16, 32, 3, NM(2, 4), 0.5, padding=1), (1, 16, 4, 3)),
}


@pytest.mark.parametrize("kind", FINISHED)
@pytest.mark.parametrize("activation, residual", [("gelu", False), (None, True), ("relu", True)])
def test_a_layer_is_finished_as_torch_does_it(kind, activation, residual, device):
    make, size = FINISHED[kind]
    layer, x = make(device=device), torch.randn(size, device=device)
    with torch.no_grad():
        expected = copy.deepcopy(layer.to_dense()).double()(x.double())
        other = torch.randn_like(expected) if residual else None
        expected = finish(expected, None, other, activation)
        got = layer.finished(x, activation, None if other is None else other.float())
        assert layer.format.fuses() == (device in TRITON_DEVICES)
    assert_close("y", got, expected, x.dtype)
