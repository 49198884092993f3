"""Masked layers compute what the dense layer with the masked weight computes."""

import copy

import pytest
import torch
from torch import nn

from smart_kernels.convert import mask_
from smart_kernels.nn import HardGate, SoftGate
from smart_kernels.ops import soft_topk
from smart_kernels.patterns import NM, Block, Channel

from .conftest import INTERPRETED
from .util import assert_close

PATTERNS = [Block(8, 8), Block(16, 8, "all"), NM(2, 4), Channel()]
LAYERS = {
    "linear": lambda: nn.Linear(24, 32),
    "ragged": lambda: nn.Linear(21, 19, bias=False),
    "conv1x1": lambda: nn.Conv2d(16, 24, 1, stride=2),
    "conv3x3": lambda: nn.Conv2d(10, 16, 3, padding=1),
}


@pytest.fixture(params=LAYERS)
def dense(request):
    return LAYERS[request.param]()


@pytest.fixture(params=PATTERNS, ids=str)
def pattern(request):
    return request.param


def masked(dense, pattern, gate):
    layer = copy.deepcopy(dense)
    mask_(layer, pattern, lambda module, name: True)
    layer.gate = gate(layer)
    return layer


def soft(layer, temperature=0.3, eps=0.0):
    scores = layer.scores
    if isinstance(layer.pattern, NM):
        groups = layer.pattern.groups(scores, layer.shape)
        mask = layer.pattern.ungroup(soft_topk(groups, layer.pattern.n, temperature)[0], layer.shape)
    else:
        mask = soft_topk(scores.flatten(), scores.numel() / 2, temperature)[0].view_as(scores)
    return SoftGate(mask, eps)


def hard(layer):
    return HardGate((torch.rand_like(layer.scores) < 0.5).float())


def sample(dense):
    return (
        torch.randn(2, 5, 21 if dense.in_features == 21 else 24)
        if isinstance(dense, nn.Linear)
        else torch.randn(2, dense.in_channels, 6, 7)
    )


@pytest.mark.parametrize("gate", [soft, hard], ids=["soft", "hard"])
def test_forward_and_gradients_equal_the_dense_layer_on_the_masked_weight(dense, pattern, gate):
    layer = masked(dense, pattern, gate)
    x = sample(dense).requires_grad_()
    plain = copy.deepcopy(dense)
    weights = {"weight": layer.weight, **({} if layer.bias is None else {"bias": layer.bias})}
    expected = torch.func.functional_call(plain, weights, (x,))
    inputs = [x, layer.raw_weight] + ([layer.scores] if gate is soft else [])
    dy = torch.randn_like(expected)
    grads = torch.autograd.grad(expected, inputs, dy, retain_graph=True)
    out = layer(x)
    assert_close("y", out, expected, torch.float32)
    for name, got, ref in zip(("dx", "dweight", "dscores"), torch.autograd.grad(out, inputs, dy), grads, strict=False):
        assert_close(name, got, ref, torch.float32)


@pytest.mark.parametrize("taps", ["one", "all"])
@pytest.mark.parametrize("padding", [(1, 0), "same"])
@pytest.mark.parametrize("gate", [lambda layer: soft(layer, eps=0.3), hard], ids=["soft", "hard"])
def test_a_convolution_skips_dead_tiles(gate, padding, taps, device):
    dense = nn.Conv2d(32, 16, (3, 1), padding=padding, device=device)
    layer = masked(dense, Block(16, 16, taps), gate)
    x = torch.randn(2, 32, 4, 5, device=device, requires_grad=True)
    ran = layer._skips(x)
    assert ran == (INTERPRETED or device == "cuda"), "a CPU is faster with the dense convolution"
    inputs = [x, layer.raw_weight, layer.raw_bias, *([layer.scores] if isinstance(layer.gate, SoftGate) else [])]
    expected, out = nn.functional.conv2d(x, layer.weight, layer.bias, padding=padding), layer(x)
    assert_close("y", out, expected, torch.float32)
    grads = (torch.autograd.grad(y, inputs, torch.ones_like(y) + x.mean().detach()) for y in (out, expected))
    for name, got, ref in zip(("dx", "dweight", "dbias", "dscores"), *grads, strict=False):
        assert_close(name, got, ref, torch.float32)


@pytest.mark.parametrize(
    "settings",
    [{"padding": "same", "kernel_size": 2}, {"groups": 2}, {"padding": 1, "padding_mode": "reflect"}],
    ids=str,
)
def test_a_convolution_without_a_kernel_stays_dense(settings):
    layer = masked(nn.Conv2d(32, 32, **({"kernel_size": 3} | settings)), Block(16, 16), hard)
    assert layer(torch.randn(1, 32, 4, 4)).shape[1] == 32


def test_without_a_gate_the_layer_is_dense(dense, pattern):
    x = sample(dense)
    assert masked(dense, pattern, lambda layer: None)(x).equal(dense(x))


def test_pruned_weights_are_not_read(dense, pattern):
    layer = masked(dense, pattern, hard)
    dead = pattern.expand(layer.gate.mask, layer.shape) == 0
    layer.raw_weight.data.copy_(layer._from_matrix(torch.where(dead, torch.nan, layer.matrix())))
    assert layer(sample(dense)).isfinite().all()


def test_channel_masks_the_bias_too():
    layer = masked(nn.Linear(24, 32), Channel(), hard)
    dead = layer.gate.mask[:, 0] == 0
    assert layer(torch.randn(3, 24))[:, dead].eq(0).all()


def test_state_dict_keeps_the_key_of_the_dense_weight(dense, pattern):
    layer = masked(dense, pattern, hard)
    assert layer.state_dict()["weight"].equal(dense.weight)
    layer.load_state_dict(dense.state_dict(), strict=False)


def test_half_keeps_the_scores_in_float32(dense, pattern):
    layer = masked(dense, pattern, soft).to(torch.bfloat16)
    assert layer.raw_weight.dtype == torch.bfloat16
    assert layer.scores.dtype == torch.float32
    assert layer.double().scores.dtype == torch.float64


def test_deepcopy_of_a_layer_in_search(dense, pattern):
    layer = masked(dense, pattern, soft)
    x = sample(dense)
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x))


def test_weight_reads_in_the_dtype_of_the_layer(dense, pattern):
    assert masked(dense, pattern, soft).to(torch.bfloat16).weight.dtype == torch.bfloat16
