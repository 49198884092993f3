"""n:m weights through compress_, save and load, and as layers that train."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smart_kernels import NM, VNM, SparseConv2d, SparseLinear, compress_, load, save
from smart_kernels.convert.compress.explain import zeros_of
from smart_kernels.convert.measure import timing
from smart_kernels.formats import SemiStructured
from smart_kernels.patterns import WeightShape
from tests.conftest import INTERPRETED
from tests.util import assert_close

if INTERPRETED:
    pytest.skip("measures layers, which takes hours in the interpreter", allow_module_level=True)


@pytest.fixture(autouse=True)
def seconds(monkeypatch):
    """Injected timings by candidate name; what is not listed takes 1 s."""
    table = {"nm rows": 0.5}

    def fake(candidates, *_):
        return {name: [table.get(name, 1.0)] * 4 for name in candidates}

    monkeypatch.setattr(timing, "time_in_turns", fake)
    return table


def prune(layer, pattern=None):
    """In place, by magnitude."""
    weight = layer.weight.data
    matrix = weight.flatten(2).transpose(1, 2) if weight.dim() > 2 else weight[:, None]
    pattern, shape = pattern or NM(2, 4), WeightShape(*matrix.shape)
    mask = pattern.hard_mask(matrix.abs().flatten(1), shape).view(shape)
    matrix.mul_(mask)  # a view of the weight
    return layer


class Net(nn.Module):
    def __init__(self, pattern=None):
        super().__init__()
        self.point = prune(nn.Conv2d(12, 20, 1), pattern)
        self.up, self.head = prune(nn.Linear(20, 48), pattern), nn.Linear(48, 5)

    def forward(self, x):
        return self.head(F.relu(self.up(F.relu(self.point(x)).mean((2, 3)))))


@pytest.mark.parametrize("pattern", [NM(2, 4), NM(1, 4), NM(4, 8), NM(2, 4, transposable=True), VNM(16, 2, 8)], ids=str)
@pytest.mark.parametrize("told", [False, True], ids=["found", "told"])
def test_outputs_stay_and_travel(pattern, told, tmp_path):
    net, x = Net(pattern).eval(), torch.randn(2, 12, 4, 4)
    expected = net(x)
    report = compress_(net, x, pattern if told else None)
    assert [row.choice for row in report.rows] == ["nm", "nm", "dense"]
    stored = net.up.format
    assert isinstance(stored, SemiStructured) and (stored.n, stored.m) == (pattern.n, pattern.m)
    assert stored.transposable == pattern.transposable
    assert_close("y", net(x), expected, x.dtype)
    save(net, tmp_path, report)
    fresh = Net(pattern).eval()
    assert load(fresh, tmp_path) == report
    assert isinstance(fresh.point.format, SemiStructured) and torch.equal(fresh(x), net(x))


class ConvNet(nn.Module):
    """3x3 convolutions, one with channels that no group of 4 or 8 divides."""

    def __init__(self, pattern=None):
        super().__init__()
        self.first = prune(nn.Conv2d(16, 30, 3, padding=1), pattern)
        self.second = prune(nn.Conv2d(30, 24, (3, 2), stride=2, dilation=(1, 2)), pattern)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        return self.head(F.relu(self.second(F.relu(self.first(x)))).mean((2, 3)))


@pytest.mark.parametrize("pattern", [NM(2, 4), NM(1, 4), NM(4, 8)], ids=str)
@pytest.mark.parametrize("policy", ["speed", "size"])
def test_convolutions_stay_and_travel(pattern, policy, seconds, tmp_path):
    if policy == "size":
        seconds.clear()
    net, x = ConvNet(pattern).eval(), torch.randn(2, 16, 7, 6)
    expected = net(x)
    report = compress_(net, x, policy=policy)
    assert [row.choice for row in report.rows] == ["nm", "nm", "dense"]
    stored = net.second.format
    assert isinstance(stored, SemiStructured) and (stored.n, stored.m, stored.taps) == (pattern.n, pattern.m, 6)
    assert_close("y", net(x), expected, x.dtype)
    save(net, tmp_path, report)
    fresh = ConvNet().eval()
    assert load(fresh, tmp_path) == report
    assert isinstance(fresh.first.format, SemiStructured) and torch.equal(fresh(x), net(x))


def test_grouped_convolutions_stay_dense():
    grouped = prune(nn.Conv2d(16, 24, 3, groups=2))
    report = compress_(nn.Sequential(grouped), torch.randn(1, 16, 5, 5))
    assert report.rows[0].choice == "dense" and "grouped convolution: stays dense" in str(report)
    with pytest.raises(ValueError, match="groups=1"):
        SparseConv2d.from_dense(grouped, NM(2, 4), 0.5)


def test_dense_wins_where_it_is_faster_and_is_still_small_on_disk(seconds, tmp_path):
    seconds.clear()
    net, x = Net().eval(), torch.randn(2, 12, 4, 4)
    report = compress_(net, x)
    assert {row.choice for row in report.rows} == {"dense"}
    save(net, tmp_path, report)
    fresh = Net()
    load(fresh, tmp_path)
    assert type(fresh.up) is nn.Linear and torch.equal(fresh.eval()(x), net(x))
    assert compress_(net, x, policy="size").rows[0].choice == "nm"


def test_what_the_zeros_show():
    linear = nn.Linear(32, 16)
    assert zeros_of(linear, None).groups is None
    assert zeros_of(prune(linear, NM(4, 8)), None).groups == (4, 8, False)
    assert zeros_of(prune(linear, NM(2, 4)), None).groups == (2, 4, False)
    assert zeros_of(prune(linear, NM(1, 4)), None).groups == (1, 4, False)
    assert zeros_of(linear, NM(3, 16)).groups is None


def test_padding_to_a_group_is_not_sparsity():
    net, x = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3)).eval(), torch.randn(1, 3, 16, 16)
    report = compress_(net, x, policy="size")
    assert type(net[0]) is nn.Conv2d and [row.choice for row in report.rows] == ["dense", "dense"]


def test_the_report_says_what_has_no_kernel():
    net = nn.Sequential(prune(nn.Linear(48, 48), NM(9, 16)))
    report = compress_(net, torch.randn(4, 48), NM(9, 16))
    assert report.rows[0].choice == "dense" and "nm:9:16: stored dense, groups of (2, 4, 8)" in str(report)


@pytest.mark.parametrize("pattern", [NM(2, 4), NM(2, 4, transposable=True), NM(1, 4), VNM(16, 2, 8), NM(2, 3)], ids=str)
@pytest.mark.parametrize("conv", [0, 1, 3], ids=["linear", "1x1", "3x3"])
def test_layers_train(pattern, conv):
    dense = nn.Conv2d(24, 16, conv, padding=conv // 2) if conv else nn.Linear(24, 16)
    layer = (SparseConv2d if conv else SparseLinear).from_dense(dense, pattern, pattern.sparsity)
    assert isinstance(layer.format, SemiStructured) == (pattern.m != 3)
    x = torch.randn(3, 24, 2, 2) if conv else torch.randn(3, 24)
    live, before = layer.weight.detach() != 0, layer.weight.detach().clone()
    dense.weight.data.mul_(live)
    expected = torch.autograd.grad(dense(x).square().sum(), dense.weight)[0]
    layer(x).square().sum().backward()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter -= 0.1 * parameter.grad
    assert not layer.weight[~live].any() and (layer.weight != before)[live].all()
    assert_close("weight", layer.weight, (before - 0.1 * expected) * live, torch.float32)
