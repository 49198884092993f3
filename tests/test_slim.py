"""``slim_``: tensors become smaller, the function stays; and coupled channels, so that there is something to remove."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smart_kernels import Channel, HardGate, mask_, masked_layers, slim_, unmask_
from tests.cnn_models import SIZE, ZOO, make
from tests.util import assert_close

X = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def gate_all(model, density=0.5):
    """One hard mask for the layers that share scores."""
    gates = {}
    for layer in masked_layers(model).values():
        mask = (torch.rand_like(layer.scores) < density).float()
        mask[0] = 1
        layer.gate = gates.setdefault(id(layer.scores), HardGate(mask))


def outputs(model, x=X):
    with torch.no_grad():
        y = model(x)
    return y if isinstance(y, list) else [y]


def assert_same(model, expected, x=X):
    for i, (y, old) in enumerate(zip(outputs(model, x), expected, strict=True)):
        assert_close(f"output {i}", y, old, torch.float32)


@pytest.mark.parametrize("name", ZOO)
def test_masked_finalized_and_slimmed_models_agree(name):
    model = make(name)
    mask_(model, Channel(), example_input=X)
    gate_all(model)
    masked = outputs(model)
    unmask_(model)
    assert_same(model, masked)
    layers = {n: m for n, m in model.named_modules() if type(m) in (nn.Conv2d, nn.Linear)}
    dead = {n: m.weight.flatten(1).eq(0).all(1).sum() for n, m in layers.items()}
    sizes = {n: len(m.weight) for n, m in model.named_modules() if n in dead}
    report = slim_(model, X)
    assert_same(model, masked)
    for n, module in model.named_modules():
        if n in dead:  # every pruned channel is gone, nothing else is
            assert len(module.weight) == sizes[n] - dead[n]
            assert type(module) in (nn.Conv2d, nn.Linear)
    assert any(dead.values()) and report.parameters[1] < report.parameters[0]
    assert sum(p.numel() for p in model.parameters()) == report.parameters[1]


@pytest.mark.parametrize("name", ZOO)
def test_a_dense_model_stays(name):
    model = make(name)
    state = copy.deepcopy(model.state_dict())
    assert not slim_(model, X).layers
    assert all(tensor.equal(state[key]) for key, tensor in model.state_dict().items())


def test_slimmed_models_train_and_keep_memory_format_and_mode():
    model = make("resnet50").to(memory_format=torch.channels_last).train()
    model.head.eval()
    mask_(model, Channel(), example_input=X)
    gate_all(model)
    unmask_(model)
    slim_(model, X)
    assert model.training and not model.head.training
    assert model.blocks[0].body[1][0].weight.is_contiguous(memory_format=torch.channels_last)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X).square().sum().backward()
    optimizer.step()
    assert not any(p.equal(old) for p, old in zip(model.parameters(), before, strict=True))


class Small(nn.Module):
    """Two convolutions with ``between`` in the middle; channel 1 and 4 of the first are 0."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.between = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3), between
        with torch.no_grad():
            self.a.weight[[1, 4]], self.a.bias[[1, 4]] = 0, 0

    def forward(self, x):
        return self.b(self.between(self.a(x)))


@pytest.mark.parametrize(
    "between, channels",
    [
        pytest.param(F.relu, 6, id="relu"),
        pytest.param(torch.sigmoid, 8, id="sigmoid-of-0-is-not-0"),
        pytest.param(lambda x: x + 1, 8, id="constant"),
        pytest.param(lambda x: x * 2 - x, 6, id="scalar"),
        pytest.param(lambda x: F.pad(x, (1, 1, 0, 0)), 6, id="pad"),
        pytest.param(lambda x: F.pad(x, (1, 1), value=1.0), 8, id="pad-with-1"),
        pytest.param(lambda x: x * x.mean(1, keepdim=True), 8, id="mean-over-channels"),
        pytest.param(lambda x: x * torch.arange(8.0).view(8, 1, 1), 8, id="constant-per-channel"),
        pytest.param(lambda x: x.roll(3, 1), 8, id="moved-by-a-number"),
        pytest.param(lambda x: x[:, [*range(8)][::-1]], 8, id="indexed"),
        pytest.param(lambda x: x.permute(0, 2, 3, 1)[:, 1:].movedim(-1, 1), 6, id="permuted-and-cut-in-place"),
        pytest.param(lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), 8, id="pixel-shuffle"),
        pytest.param(lambda x: x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2), 8, id="channel-shuffle"),
        pytest.param(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), 8, id="parts-that-differ"),
        pytest.param(lambda x: F.group_norm(x, 1), 8, id="group-norm-mixes"),
        pytest.param(lambda x: F.avg_pool2d(F.interpolate(x, scale_factor=2), 2), 6, id="pooled"),
    ],
)
def test_what_goes_and_what_stays(between, channels):
    model = Small(between)
    before = outputs(model)
    slim_(model, X)
    assert model.a.out_channels == model.b.in_channels == channels
    assert_same(model, before)
